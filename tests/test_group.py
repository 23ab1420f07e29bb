"""What the ranks of a group sum and exchange, with threads as ranks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from rhoselect.errors import ConfigError, LostRankError
from rhoselect.ranks.fast import FastGroup
from rhoselect.ranks.gloo import FIRST_BYTES, HEAD_BYTES, GlooGroup
from rhoselect.ranks.gpu import settle
from rhoselect.ranks.group import Gradients


def together(
    size: int,
    meeting: Path,
    call: Callable[[GlooGroup], Any],
    kind: type[GlooGroup] = GlooGroup,
) -> list[Any]:
    """What ``call`` gives at each of so many ranks, which are threads."""

    def one(rank: int) -> Any:
        return call(kind(rank, size, meeting, 20.0))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_sums_are_those_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Bit for bit, of any shapes and types, also where some ranks or all have no value, and of a
    large one, which is sent in parts."""
    random = torch.Generator().manual_seed(0)
    monkeypatch.setattr("rhoselect.ranks.gloo.PART", 30_000)
    shapes = [(7,), (), (3, 5), (1, 2, 2), (1000,), (250, 200)]
    f32 = torch.float32
    types = [f32, torch.float64, torch.bfloat16, f32, f32, f32]
    like = [torch.empty(s, dtype=d) for s, d in zip(shapes, types, strict=True)]
    values: list[list[Tensor | None]] = [
        [torch.randn(each.shape, generator=random).to(each.dtype) for each in like]
        for _ in range(size)
    ]
    columns = [[rank[n] for rank in values] for n in range(len(like))]
    expected = [oracle.in_pairs([c for c in column if c is not None]) for column in columns]
    assert not torch.equal(expected[4], oracle.far_first(columns[4])) or size == 2  # type: ignore[arg-type]
    first = values[0][3]
    transposed = values[1][5]
    assert transposed is not None
    values[1][5] = transposed.t().contiguous().t()
    for rank in values:
        rank[1] = None
        rank[3] = first.clone() if rank is values[0] and first is not None else None
    found = together(size, tmp_path / "meeting", lambda g: g.total(list(values[g.rank]), like))
    for totals in found:
        assert totals[1] is None
        assert torch.equal(totals[3], first)
        for row in (0, 2, 4, 5):
            assert torch.equal(totals[row], expected[row]), row


@pytest.mark.parametrize("size", [2, 4])
def test_fast_sums_are_close_and_alike(tmp_path: Path, size: int) -> None:
    """On all ranks and each time."""
    random = torch.Generator().manual_seed(0)
    like = [torch.empty(7), torch.empty(2, dtype=torch.bfloat16), torch.empty(250, 200)]
    values = [
        [torch.randn(each.shape, generator=random).to(each.dtype) for each in like]
        for _ in range(size)
    ]
    expected = [torch.stack(column).sum(0) for column in zip(*values, strict=True)]

    def summed(group: GlooGroup) -> Gradients:
        own = [each.clone() for each in values[group.rank]]
        only = None if group.rank else expected[0]
        return group.total([*own, None, only], [*like, like[0], like[0]])

    first, *others = [
        each
        for meeting in ("one", "other")
        for each in together(size, tmp_path / meeting, summed, FastGroup)
    ]
    assert first[3] is None
    assert torch.equal(first[4], expected[0])
    torch.testing.assert_close(first[:3], expected)
    for totals in others:
        assert all(map(torch.equal, totals[:3], first[:3]))


def test_zeros_keep_their_sign(tmp_path: Path) -> None:
    """A rank without a gradient changes none."""
    zeros = torch.tensor([0.0, -0.0])
    found = together(
        2, tmp_path / "m", lambda g: g.total([zeros.clone() if g.rank else None], [zeros])
    )
    for (total,) in found:
        assert total.signbit().tolist() == [False, True]


def test_sparse_gradients_are_refused(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(ConfigError, match=r"sparse gradients, allowed 1"):
        together(2, tmp_path / "m", lambda g: g.total([sparse], [torch.eye(3)]))


def test_a_rank_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    def call(group: GlooGroup) -> None:
        if group.rank == 0:
            with pytest.raises(LostRankError, match=r"rank 0 lost another one"):
                group.gathered(b"")

    with ThreadPoolExecutor(2) as pool:
        groups = pool.map(lambda rank: GlooGroup(rank, 2, tmp_path / "m", 1.0), range(2))
        list(map(call, groups))


def test_bytes_are_gathered_by_rank(tmp_path: Path) -> None:
    edge = FIRST_BYTES - HEAD_BYTES
    for turn, last in enumerate((b"\0\0\0\0", b"x" * edge, b"x" * edge + b"yz")):
        parts = [b"", b"1", b"22 ", last]
        meeting = tmp_path / str(turn)
        assert together(4, meeting, lambda g, p=parts: g.gathered(p[g.rank])) == [parts] * 4


def test_a_wait_for_a_gpu_ends_with_a_rank() -> None:
    """torch's own waits for a collective that another rank will never take part in."""
    with pytest.raises(LostRankError, match=r"another rank did not come for 0\.01 s"):
        settle(lambda: False, lambda: None, 0.01)

    def lost() -> None:
        raise LostRankError("rank 1 ended")

    with pytest.raises(LostRankError, match="rank 1 ended"):
        settle(lambda: False, lost, 60.0)
    settle(lambda: True, lost, 0.0)
