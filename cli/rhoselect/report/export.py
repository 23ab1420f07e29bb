"""A table of every point of a finished run's train split, for finding points to clean or drop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rhoselect.compute import make_current, resolve_device, threads
from rhoselect.data.il_table import read_table
from rhoselect.data.point_table import write_points
from rhoselect.errors import RunFolderError
from rhoselect.inputs import RunInputs
from rhoselect.models.replica import Replica
from rhoselect.models.weights import read_weights
from rhoselect.report.history import NEVER, History, history, reopen
from rhoselect.report.runs import load_run
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.ema import AVERAGE
from rhoselect.trainer.learner import MODEL
from rhoselect.trainer.resuming import kind_of
from rhoselect.types import Indices, Layout

BLOCK_ROWS = 1 << 16
SURE = 0.9
"""From this probability of its label on, a model has learnt a point."""
Array = npt.NDArray[Any]


@dataclass
class Counts:
    """Points written: flagged ones and, where clean labels are known, those that noise changed and
    those of them that are suspected."""

    points: int = 0
    suspected: int = 0
    redundant: int = 0
    corrupted: int = 0
    caught: int = 0
    clean_known: bool = False


@dataclass(frozen=True)
class Exporter:
    """Makes the rows of a run's points. ``device`` computes the losses under its last weights."""

    inputs: RunInputs
    past: History
    replica: Replica
    device: torch.device
    irreducible_losses: npt.NDArray[np.float32] | None

    @cached_property
    def names(self) -> npt.NDArray[np.object_] | None:
        """The names of the classes [K], if they have names."""
        names = self.inputs.dataset.class_names
        return None if names is None else np.array(names, object)

    def blocks(self, counts: Counts) -> Iterator[dict[str, Array]]:
        """Columns by name, BLOCK_ROWS points at a time, and what was counted so far."""
        train = self.inputs.train
        for first in range(train.start, train.stop, BLOCK_ROWS):
            indices = np.arange(first, min(first + BLOCK_ROWS, train.stop), dtype=np.int64)
            block = self._block(indices)
            clean, suspected = block["clean_label"], block["suspected_noisy"]
            wrong = clean != block["label"]
            counts.points += len(indices)
            counts.suspected += _count(suspected)
            counts.redundant += _count(block["redundant"])
            counts.corrupted += _count(wrong)
            counts.caught += _count(suspected & wrong)
            counts.clean_known = not np.ma.is_masked(clean)
            yield block

    def _block(self, indices: Indices) -> dict[str, Array]:
        train, rank = self.inputs.train, indices - self.inputs.train.start
        seen, selected = self.past.seen[rank], self.past.selected[rank]
        clean, losses = train.clean_labels(indices), self._losses(indices)
        unknown: Array = np.ma.MaskedArray(np.zeros(len(indices), np.int64), mask=True)
        nameless: Array = np.full(len(indices), None)
        il = unknown if self.irreducible_losses is None else self.irreducible_losses[rank]
        labels = train.labels(indices) if train.labelled else unknown
        origins = train.origins(indices)
        return {
            "index": indices,
            "source": origins.source,
            "source_row": origins.row,
            "label": labels,
            "label_name": nameless if self.names is None else self.names[labels],
            "clean_label": unknown if clean is None else clean,
            "irreducible_loss": il,
            "last_loss": losses,
            "times_seen": seen,
            "times_selected": selected,
            "step_last_selected": np.ma.masked_equal(self.past.last_step[rank], NEVER),
            **self._flags(il, losses, seen, selected),
        }

    def _flags(self, il: Array, losses: Array, seen: Array, selected: Array) -> dict[str, Array]:
        """What losses in nats say of labels; nothing of points without."""
        if not self.inputs.train.labelled:
            unknown: Array = np.ma.MaskedArray(np.zeros(len(losses), bool), mask=True)
            return {"suspected_noisy": unknown, "redundant": unknown}
        return {
            "suspected_noisy": self._suspected(il, losses, seen, selected),
            "redundant": _redundant(il, losses, selected),
        }

    def _suspected(self, il: Array, losses: Array, seen: Array, selected: Array) -> Array:
        """Both models give the label less than chance, 1 / K, and the method did not choose the
        point more often than a uniform choice does, n_b / n_B of the times."""
        chance = math.log(self.inputs.dataset.classes)
        selection = self.inputs.config.selection
        rare = selected * selection.n_B <= seen * selection.n_b
        suspected: Array = (np.minimum(il, losses) > chance) & rare
        return suspected

    def _losses(self, indices: Indices) -> npt.NDArray[np.float32]:
        """Losses [R] float32 in nats of points as they are, not augmented."""
        train, batch = self.inputs.train, self.inputs.config.trainer.eval_batch
        parts = [indices[start : start + batch] for start in range(0, len(indices), batch)]
        outputs = (self.replica(train.read(part, self.device)) for part in parts)
        return np.concatenate([output.losses.cpu().numpy() for output in outputs])


def _redundant(il: Array, losses: Array, selected: Array) -> Array:
    """Both models are sure of the label, though the run never trained on the point."""
    redundant: Array = (np.maximum(il, losses) < -math.log(SURE)) & (selected == 0)
    return redundant


def _count(flags: Array) -> int:
    """How many are true; a masked flag does not count."""
    return int(np.ma.filled(flags, False).sum())


def export(path: Path, out: Path, device_name: str, moved: Sequence[str] = ()) -> Counts:
    """Write the table of a finished run; ``moved``: see ``reopen``. Raises UserError."""
    run = load_run(path, measured=False)
    device = resolve_device(device_name, "--device")
    make_current(device)
    inputs = reopen(path, str(device), moved)
    replica = inputs.new_evaluator(device, inputs.config.scorer.precision)
    replica.load(last_weights(path, run.summary["steps"], replica.layout))
    past = history(inputs, run)
    exporter = Exporter(inputs, past, replica, device, irreducible_losses(inputs))
    metadata = {
        "tool": f"rhoselect {version('rhoselect')}",
        "fingerprint": inputs.dataset.fingerprint,
        "run": path.name,
        "method": run.summary["method"],
        "steps": run.summary["steps"],
        "weights_sha256": run.summary["weights_sha256"],
    }
    counts = Counts()
    with threads(inputs.config.trainer.threads):
        write_points(out, exporter.blocks(counts), metadata)
    return counts


def last_weights(path: Path, steps: int, layout: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights after a run's last step, by the names of ``layout``. Raises UserError."""
    if kind_of(path) != "trained":  # a loop of the user's own keeps its checkpoints
        model = path / "model.safetensors"
        if not model.exists():
            raise RunFolderError(
                f"run folder {path}: has no model.safetensors, the weights after its last step;"
                " allowed the folder of a loop whose weights were known: in its own process, or"
                " served for a method that scores by them (and, with BatchNorm, under"
                " selection.bn = 'running')"
            )
        weights = read_weights(model, "export")
        return ((name, weights[name]) for name in layout)
    found = checkpoints.load_newest(path)
    if found is None or found.progress.step != steps:
        raise RunFolderError(
            f"run folder {path}: the checkpoint of its last step, {steps}, is missing; allowed a"
            " run that has it, for the losses are those under its weights; restore it"
        )
    kept = found.learner
    return ((name, kept.get(AVERAGE + name, kept[MODEL + name])) for name in layout)


def irreducible_losses(inputs: RunInputs) -> npt.NDArray[np.float32] | None:
    """The irreducible losses of il.table, also if the method does not use them; None without it."""
    config, dataset = inputs.config, inputs.dataset
    if inputs.scoring.il is not None:
        return inputs.scoring.il.values
    if config.il.table is None:
        return None
    cache = config.data.cache_folder / "il"
    span, overlap = dataset.splits["train"], config.il.overlap
    return read_table(Path(config.il.table), dataset.fingerprint, span, overlap, cache).values
