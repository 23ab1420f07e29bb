"""As a program, ``sharded.py RANK SIZE MEETING``, a rank that checks what others rely on: gathered
tensors are those of torch, cast, and rows make the tensor again."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from rhoselect.ranks.gloo import GlooGroup
from rhoselect.ranks.shards import Shards
from user_code import Stacked

TYPES = [torch.float32, torch.bfloat16, torch.float16]


def main(rank: int, size: int, meeting: Path) -> None:
    torch.manual_seed(0)
    model = Stacked((1, 4, 6), 3)
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    group = GlooGroup(rank, size, meeting, 20.0)
    shards = Shards(group, torch.device("cpu"))
    shards.divide(model, "", bf16=False)
    parts = model.state_dict()
    layout = {name: TYPES[n % 3] for n, name in enumerate(parts) if n != 1}
    found = shards.gathered(parts, layout)
    assert found.keys() == layout.keys()
    for name, dtype in layout.items():
        assert torch.equal(shards.whole(parts[name]), whole[name]), name
        assert torch.equal(found[name], whole[name].to(dtype)), name
        assert found[name].dtype == dtype and found[name].is_contiguous(), name
        rows, shape = shards.rows(parts[name])
        assert shape == list(whole[name].shape), name
        assert torch.equal(shards.whole(shards.of_rows(rows.clone(), shape)), whole[name]), name
    held = sum(shards.rows(part)[0].numel() for part in parts.values())
    assert held < sum(map(torch.numel, whole.values())) / size + 100
    group.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
