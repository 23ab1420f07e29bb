"""What the ranks of a data-parallel loop must have alike, and what they put together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhoselect import config as configuration
from rhoselect.client.identity import identity
from rhoselect.errors import ConfigError, DataError, ModelError, UserError, listed
from rhoselect.hardware import Facts, check_alike
from rhoselect.inputs import RunInputs, SelectionInputs
from rhoselect.ranks import Exchange
from rhoselect.ranks.loops import LEAD
from rhoselect.snapshots.format import pack, unpack
from rhoselect.types import Layout

NUMBERS = 64  # of a tensor that are compared


def check_together(group: Exchange, inputs: SelectionInputs, step: int, facts: Facts) -> None:
    """Raise UserError on all ranks unless they have the same settings, points, first step and
    hardware."""
    if group.size == 1:
        return
    own = {
        "config": inputs.config.model_dump_json(),
        "data": _data_sha256(inputs),
        "step": step,
        "facts": facts,
    }
    lead, *others = map(json.loads, group.gathered(json.dumps(own).encode()))
    settings = configuration.from_json(lead["config"])
    for rank, each in enumerate(others, 1):
        if changed := settings.changed_keys(configuration.from_json(each["config"])):
            raise ConfigError(
                f"rank {rank}: got other settings than rank 0 ({listed(changed, 4)}), allowed the"
                " same on all ranks; give all of them one configuration"
            )
        if each["step"] != lead["step"]:
            raise UserError(
                f"rank {rank}: got step {each['step']}, allowed rank 0's {lead['step']}; load the"
                " same checkpoint on all ranks"
            )
        if each["data"] != lead["data"]:
            raise DataError(
                f"rank {rank}: got other points or irreducible losses than rank 0, allowed the"
                " whole data set in one order on all ranks: SelectionClient shares out each batch"
            )
        check_alike(f"rank {rank}", each["facts"], "rank 0", lead["facts"])


def _data_sha256(inputs: SelectionInputs) -> str:
    """Of the points and their irreducible losses."""
    if isinstance(inputs, RunInputs):
        return inputs.sha256
    digest = hashlib.sha256(json.dumps(identity(inputs.train)).encode())
    if inputs.scoring.il is not None:
        digest.update(inputs.scoring.il.values.data)
    return digest.hexdigest()


def alike_weights(
    group: Exchange, version: int, tensors: Mapping[str, Tensor], layout: Layout, buffers: list[str]
) -> Mapping[str, Tensor]:
    """The weights with which this rank scores: its own, and the ``buffers`` of rank 0, which differ
    by rank where statistics do. Raises ModelError on all ranks if the other tensors differ; at
    versions 0, 1, 2, 4, 8, … a few numbers of each are compared."""
    due = version & (version - 1) == 0
    if group.size == 1 or not (due or buffers):
        return tensors
    digest = _digest(tensors, [name for name in layout if name not in buffers]) if due else b""
    leads = buffers and group.rank == LEAD
    own = pack({name: tensors[name].detach() for name in buffers}) if leads else b""
    parts = group.gathered(digest + own)
    heads = [part[: len(digest)] for part in parts]
    odd = [rank for rank, head in enumerate(heads) if head != heads[LEAD]]
    if odd:
        raise ModelError(
            f"model: got other weights after {version} steps on rank {listed(odd, 4)} than on rank"
            " 0, allowed the same on all ranks; train a model in DistributedDataParallel or sharded"
            " by fully_shard, and load the same weights on all ranks"
        )
    return {**tensors, **unpack(parts[LEAD][len(digest) :])[0]} if buffers else tensors


def _digest(tensors: Mapping[str, Tensor], names: Sequence[str]) -> bytes:
    digest = hashlib.sha256()
    for name in names:
        flat = tensors[name].detach().reshape(-1)
        some = flat[:: max(1, len(flat) // NUMBERS)]
        digest.update(some.double().cpu().numpy().tobytes())
    return digest.digest()


def check_losses(losses: Any, needed: bool) -> None:
    """Raise UserError unless these may be the losses of a batch, or None where none are needed."""
    if losses is None and needed:
        raise UserError(
            "selection.step: called without losses, which this selection.function needs; call"
            " step(model, losses) with those of the batch [n_b]"
        )
    if losses is not None and not isinstance(losses, Tensor):
        raise UserError(
            f"selection.step: got losses of type {type(losses).__name__}, allowed a tensor [n_b]:"
            " those of the batch, without a mean"
        )


def all_losses(group: Exchange, step: int, losses: Tensor | None, share: int) -> Tensor | None:
    """The losses [n_b] of a batch from those [``share``] of each rank; None if none are given.
    Raises UserError on all ranks for those of some ranks only, of another size or step."""
    losses = None if losses is None else losses.detach()
    if group.size == 1:
        return losses
    own = b"" if losses is None else losses.double().cpu().numpy().tobytes()
    parts = [np.frombuffer(p, np.float64) for p in group.gathered(np.float64(step).tobytes() + own)]
    steps, counts = [int(part[0]) for part in parts], [len(part) - 1 for part in parts]
    if len(set(steps)) > 1:
        raise UserError(
            f"selection.step: got steps {listed(steps, 4)} by rank, allowed the same on all ranks"
        )
    if not any(counts):
        return None
    if set(counts) != {share}:
        raise UserError(
            f"selection.step: got {listed(counts, 4)} losses by rank, allowed {share} on each, one"
            " a point of its batch, or none on all"
        )
    return torch.from_numpy(np.stack([part[1:] for part in parts], 1).reshape(-1))
