"""Rows of a column, gathered from the blocks that hold them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rhoselect.data.base import Labels
from rhoselect.data.blocks import Blobs, Block
from rhoselect.data.manifest import Array
from rhoselect.data.shards import Located


def gather(located: Located, column: Callable[[Block], Array], result: Array) -> Array:
    """Rows [C, ...] of a column, in the order asked for; ``result`` [C, ...] is for their use."""
    for block, begin, end in located.pieces:
        rows = located.indices[begin:end] - block.start
        # "clip" writes straight into the result; "raise" would buffer it. They are inside.
        column(block).take(rows, axis=0, out=result[begin:end], mode="clip")
    return as_asked(located, result)


def as_asked(located: Located, ascending: Array) -> Array:
    """Rows [C, ...] of ascending indices in the order in which they were asked for."""
    if located.places is None:
        return ascending
    result = np.empty_like(ascending)
    result[located.places] = ascending
    return result


def raw_of(block: Block) -> Array:
    """Inputs [R, ...] of a block that holds them as they are."""
    assert not isinstance(block.inputs, Blobs)
    return block.inputs


def blobs_of(block: Block) -> Blobs:
    """Inputs of a block that holds encoded ones."""
    assert isinstance(block.inputs, Blobs)
    return block.inputs


def clean_of(block: Block) -> Labels:
    """Labels [R] before noise was put in."""
    assert block.clean is not None
    return block.clean
