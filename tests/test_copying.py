"""Copies of many tensors at once, as snapshots make them. tests/gpu has those of a GPU."""

from __future__ import annotations

import pytest
import torch

from rhoselect.snapshots.copying import SMALL_BYTES, copy_all, landed
from rhoselect.snapshots.format import pack, unpack

CPU = torch.device("cpu")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8]


def file_of(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Tensors of several dtypes in the bytes of one snapshot."""
    tensors = {
        f"{dtype}{n}": torch.randint(0, 100, shape).to(dtype)
        for n, shape in enumerate(shapes)
        for dtype in DTYPES
    }
    found, _ = unpack(pack(tensors))
    return [*found.values()]


def test_tensors_of_one_buffer_travel_together() -> None:
    """Also scalars, and those that begin in the middle of the buffer."""
    tensors = file_of((3, 5), (), (7,))
    for part in (tensors, tensors[3:], tensors[-2:]):
        found = landed(part, torch.device("meta"))
        assert [(t.dtype, t.shape, t.device.type) for t in found] == [
            (t.dtype, t.shape, "meta") for t in part
        ]
        assert len({t.untyped_storage()._cdata for t in found}) == 1
    assert all(map(torch.equal, landed(tensors, CPU), tensors))


@pytest.mark.parametrize(
    "tensors",
    [
        [torch.ones(3), torch.ones(3)],
        [torch.ones(8, 8).t(), torch.ones(2)],
        [torch.ones(SMALL_BYTES)[:], torch.ones(1)],
        [(memory := torch.ones(1000))[:1], memory[2:3]],
        [memory[:2], memory[2:2]],
        [memory[1:2], memory[2:4].view(torch.float64)],
    ],
    ids=["several buffers", "by column", "large", "others in between", "empty", "not aligned"],
)
def test_other_tensors_stay_where_they_are(tensors: list[torch.Tensor]) -> None:
    assert landed(tensors, torch.device("meta")) is tensors


def test_copies_are_cast_to_the_dtypes_of_their_targets() -> None:
    sources = [torch.randn(3, 4), torch.randn(2).double(), torch.arange(5)]
    targets = [torch.zeros(3, 4).bfloat16(), torch.zeros(2), torch.zeros(5, dtype=torch.int64)]
    copy_all(targets, sources)
    for own, given in zip(targets, sources, strict=True):
        assert torch.equal(own, given.to(own.dtype))
