"""Shapes of inputs that models take, checked in one line."""

from __future__ import annotations

from rhoselect.errors import ModelError


def image_shape(
    input_shape: tuple[int, ...], least_px: int = 1, most_px: int | None = None
) -> tuple[int, int, int]:
    """(C, H, W) of images whose sides have ``least_px`` to ``most_px`` pixels. Raises ModelError
    for other inputs."""
    if len(input_shape) == 3:
        channels, height, width = input_shape
        if min(height, width) >= least_px and (most_px is None or max(height, width) <= most_px):
            return channels, height, width
    sides = f" of {least_px}{f' to {most_px}' if most_px else ''} px" if least_px > 1 else ""
    more = " or more" if sides and most_px is None else ""
    raise ModelError(
        f"got inputs of shape {list(input_shape)}, allowed images [C, H, W]{sides}{more};"
        " rhoselect.models:mlp takes inputs of any shape"
    )


def check_tokens(input_shape: tuple[int, ...]) -> None:
    """Raise ModelError for other inputs than [T] token ids."""
    if len(input_shape) != 1:
        raise ModelError(f"got inputs of shape {list(input_shape)}, allowed [T] token ids")
