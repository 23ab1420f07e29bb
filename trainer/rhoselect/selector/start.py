"""Where a session of a user's own loop begins, and the same as a plain dict for a checkpoint.

Beside the weights, which are the loop's, a session needs its step, the selector's state and, at
lag >= 1, the old snapshots that its windows use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rhoselect.config import Config
from rhoselect.errors import UserError, listed
from rhoselect.inputs import SelectionInputs
from rhoselect.selection.interface import State
from rhoselect.types import Layout, Snapshot

FORMAT = 1


@dataclass(frozen=True)
class Start:
    """The first ``step`` of a session. Of a loop that resumes with a checkpoint also the selector's
    ``state``, the ``snapshots`` that windows from ``step`` on use, and ``of``, the settings that
    the points depend on, as ``settings_of`` gives them."""

    step: int = 0
    state: State | None = None
    snapshots: Sequence[Snapshot] = ()
    of: str = ""


def settings_of(config: Config, points: int) -> str:
    """The settings that selection from ``points`` points depends on, in JSON."""
    selection = config.selection.model_dump(exclude={"rescore", "audit_every"})
    return json.dumps({"seed": config.seed, "points": points, **selection}, sort_keys=True)


def check_start(inputs: SelectionInputs, start: Start) -> None:
    """Raise UserError unless a session may begin there. With trainer.steps it has no batch, as in a
    job that is started again after its last step."""
    config, step = inputs.config, start.step
    steps = config.trainer.steps
    if not 0 <= step <= steps:
        raise UserError(f"step: got {step}, allowed 0 to {steps}: trainer.steps is {steps}")
    keeps = config.selection.lag != 0 or inputs.scoring.function.initial_state(inputs.classes)
    if start.state is None and 0 < step < steps and keeps:
        raise UserError(
            f"step: got {step}, allowed 0 with selection.lag >= 1 or a method with a state: a"
            " resumed loop does not have the old snapshots or the state that they need; in a local"
            " loop give what state_dict() returned"
        )
    check_settings(start, settings_of(config, len(inputs.train)))


def check_settings(start: Start, here: str) -> None:
    """Raise UserError if ``start`` is of another selection than that of the settings ``here``."""
    if not start.of or start.of == here:
        return
    theirs, ours = json.loads(start.of), json.loads(here)
    differ = [
        f"{name} = {theirs.get(name)!r}, here {ours.get(name)!r}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    raise UserError(
        f"load_state_dict: got the state of another selection ({listed(differ, 3, '; ')}), allowed"
        " one of the same; change the settings, or begin a new run"
    )


def packed(start: Start, layout: Layout, lag: int) -> dict[str, Any]:
    """``start`` as a dict of strings, integers and tensors on the CPU, which anything can save.

    Its names and shapes are the same at every step, as torch.distributed.checkpoint wants them: it
    always has ``lag`` snapshots, and those that are not there yet have version -1.
    """
    plain: dict[str, Any] = {"format": FORMAT, "step": start.step, "settings": start.of}
    state = start.state or {}
    plain |= {f"state.{name}": tensor.cpu() for name, tensor in state.items()}
    missing = Snapshot(-1, _zeros(layout), _zeros(state))
    snapshots = [*start.snapshots, *[missing] * (lag - len(start.snapshots))]
    for slot, snapshot in enumerate(snapshots):
        here = f"snapshot.{slot}."
        plain[f"{here}version"] = snapshot.version
        plain |= {f"{here}weights.{name}": t.cpu() for name, t in snapshot.tensors.items()}
        plain |= {f"{here}state.{name}": t.cpu() for name, t in snapshot.state.items()}
    return plain


def unpacked(plain: Mapping[str, Any]) -> Start:
    """What ``packed`` was given. Raises UserError for anything else."""
    known: Any = plain  # from a file: anything may be in it
    if not isinstance(known, Mapping) or known.get("format") != FORMAT:
        raise UserError(
            f"load_state_dict: got a {type(plain).__name__} that is not of format {FORMAT}, allowed"
            " what state_dict() of a SelectionClient returned"
        )
    slots = (_below(plain, f"snapshot.{slot}.") for slot in range(len(plain)))
    snapshots = [
        Snapshot(each["version"], _below(each, "weights."), _below(each, "state."))
        for each in slots
        if each.get("version", -1) >= 0
    ]
    return Start(plain["step"], _below(plain, "state."), snapshots, plain["settings"])


def _zeros(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros(each.shape, dtype=each.dtype) for name, each in like.items()}


def _below(plain: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with ``prefix``, without it."""
    return {n.removeprefix(prefix): v for n, v in plain.items() if n.startswith(prefix)}
