"""Options that ``rhoctl il fit`` and ``rhoctl svp fit`` share, and their checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rhoselect.errors import ConfigError, ModelError
from rhoselect.files import check_place

SMALL_CNN = "rhoselect.models:small_cnn"
Model = Annotated[
    str | None,
    typer.Option(help=f"Model factory. Default: {SMALL_CNN}, for images from 16 px."),
]
Device = Annotated[
    str, typer.Option(help="Device that trains and scores: auto, cpu, cuda or cuda:N.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist, which took time to make.")
]


def check_new(files: Mapping[str, Path | None], overwrite: bool) -> None:
    """Raise ConfigError for a file to write, by its flag, that exists already or cannot be made."""
    for flag, path in files.items():
        if path is not None and path.is_dir():
            raise ConfigError(f"{flag} {path}: is a folder, allowed a file to write")
        if path is not None and path.exists() and not overwrite:
            raise ConfigError(
                f"{flag} {path}: exists, allowed a new file; give another name, or --overwrite"
            )
        if path is not None:
            check_place(flag, path)


@contextmanager
def naming_default(model: str | None) -> Iterator[None]:
    """Say in a ModelError of the block which network was taken, if none was named."""
    try:
        yield
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(
            f"{error}; this is the default network, which is for images: give --model, as"
            " rhoselect.models:mlp for numbers or rhoselect.models:text_transformer for texts"
        ) from None
