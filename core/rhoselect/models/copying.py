"""Copies of a model: what is measured on one, or averaged in one, leaves the model as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rhoselect.errors import ModelError
from rhoselect.importing import one_line


@contextmanager
def copying() -> Iterator[None]:
    """Run a block that does nothing but copy a model. Raises ModelError if that fails."""
    try:
        yield
    except Exception as error:  # from whatever the user's modules hold
        raise ModelError(
            f"model.factory: its model cannot be copied ({one_line(error)}), allowed one that"
            " copy.deepcopy copies; in place of torch.nn.utils.weight_norm use"
            " torch.nn.utils.parametrizations.weight_norm"
        ) from None
