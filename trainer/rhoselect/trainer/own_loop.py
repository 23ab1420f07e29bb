"""The records of a user's own training loop, in a run folder like those of ``rhoctl train``.

A row is written when the loop has taken its step. Until it belongs to a part it stands in
``steps/tail-GENERATION.jsonl``, so that a loop that was killed, and goes on from any step, has the
rows before it. Steps that no session of this folder has seen have a row without indices.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rhoselect.compute import repeatable, threads
from rhoselect.devices import service_device
from rhoselect.inputs import RunInputs, SelectionInputs
from rhoselect.models.statistics import recalibrate_batchnorm, running_statistics
from rhoselect.selector.selector import SelectedBatch
from rhoselect.trainer.adapters import adapter_files, save_adapter
from rhoselect.trainer.candidates import next_candidates
from rhoselect.trainer.checkpoint import Progress, save_model
from rhoselect.trainer.hardware import agreed, begin
from rhoselect.trainer.records import (
    Records,
    StepRecord,
    corrupted_share,
    end_of_parts,
    read_steps,
    rows_after,
    weights_sha256,
)
from rhoselect.trainer.resuming import RESULTS
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.summary import count_flops, il_flops, measured, summary_of
from rhoselect.trainer.tracking import figures_of, figures_of_test, open_tracker

GIVEN_DATA = "given:data"
"""data.dataset of a run whose points are objects of the loop."""
PART_ROWS = 1000  # most rows of the tail
STEP_FORWARDS = 3  # forwards that a step's forward and backward cost, where only one is counted


class LoopRecords:
    """The records of one session of a run, from ``step`` on, with ``workers`` scorers.

    ``point_flops`` are those of one point's forward, where the points are the loop's own. Writes
    raise FencedError once a newer session owns the folder, and StorageError.
    """

    def __init__(
        self,
        inputs: SelectionInputs,
        folder: RunFolder,
        step: int,
        workers: int,
        point_flops: int = 0,
    ) -> None:
        self._inputs, self._folder, self._workers = inputs, folder, workers
        self._steps, self._in_tail, self._point_flops = step, 0, point_flops
        self._logged: tuple[int, Mapping[str, float]] | None = None
        self._summary: dict[str, Any] = {}
        self._closed = False
        with writing(folder):
            rows = list(_rows_before(folder.path, step, inputs.config.selection.n_B))
            self._records = Records(folder, step)
            for row in rows:
                self._records.append(row)
            self._records.flush()
            self._first: int | None = step  # until the hardware is noted
            self._note_hardware()
            for old in [*_tails(folder.path), *(folder.path / name for name in RESULTS)]:
                old.unlink(missing_ok=True)
            self._tracker = open_tracker(inputs.config.trainer.tracker, folder.path, step)
            tail = folder.path / "steps" / f"tail-{folder.generation}.jsonl"
            self._tail = tail.open("a", encoding="utf-8")
        self._started = time.monotonic() - _seconds(folder.path, "step_ms")

    def add(self, batch: SelectedBatch, loss: float | None) -> None:
        """The loop has taken its step on ``batch``, which had the mean ``loss`` before, in nats."""
        points = batch.points
        row = StepRecord(
            step=batch.step,
            window=batch.step,
            indices=points.indices.tolist(),
            scores=points.scores,
            loss=loss,
            staleness=max(0, batch.step - batch.version),
            candidates=batch.candidates,
            wait_ms=1e3 * batch.waited_s,
            step_ms=1e3 * (time.perf_counter() - batch.asked_at),
            corrupted_share=corrupted_share(self._inputs.train, points.indices),
            correct_share=None,
        )
        with writing(self._folder):
            self._folder.check_fence()
            self._note_hardware()
            self._tail.write(json.dumps(asdict(row)) + "\n")
            self._tail.flush()
            self._records.append(row)
            self._tracker.log(batch.step + 1, figures_of(row))
            self._steps, self._in_tail = batch.step + 1, self._in_tail + 1
            if self._in_tail == PART_ROWS:
                self._flush()

    def _note_hardware(self) -> None:
        """Once, when a process that scores has told its own: this one, or one elsewhere."""
        if self._first is not None and agreed(self._folder) is not None:
            begin(self._folder, self._first, training={})
            self._first = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add ``values`` after ``step`` optimizer steps to eval.jsonl, null for one that is not
        finite. A call that repeats the last one has no effect."""
        if (step, values) == self._logged:
            return
        task = self._inputs.task
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with writing(self._folder):
            main = {"metric": finite[metric]} if (metric := task.metric) in finite else {}
            self._records.add_values(step, time.monotonic() - self._started, main | finite)
            if self._summary:
                targets = self._inputs.config.trainer.targets
                self._summary |= measured(self._folder, task, targets)
                self._records.write_summary(self._summary)
            self._tracker.log(step, figures_of_test(main | finite))
            if self._closed:
                self._tracker.close()
        self._logged = step, values

    def close(self, weights: Mapping[str, Tensor] | None) -> None:
        """Write the summary, and model.safetensors if ``weights`` are all of the model's tensors.
        It may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._tracker.close()
        with writing(self._folder), self._tail:
            self._folder.check_fence()  # a newer session has other rows
            self._flush()
            Path(self._tail.name).unlink(missing_ok=True)
            if self._steps:
                self._summary = self._summarise(self._save(weights or {}))
                self._records.finish(self._summary)

    def _flush(self) -> None:
        self._records.flush()
        self._tail.truncate(0)
        self._in_tail = 0

    def _save(self, weights: Mapping[str, Tensor]) -> str | None:
        """Write model.safetensors, if the configuration names the model. Returns the hash of the
        weights, if they are not rounded to a scorer's precision.

        A service does not get the BatchNorm statistics that scores do not use: it estimates them,
        as for a run of ``rhoctl train``.
        """
        if not isinstance(self._inputs, RunInputs):
            return None
        model = self._inputs.new_model()
        own = model.state_dict()
        missing = own.keys() - weights.keys() - self._inputs.frozen.hashes.keys()
        if not missing <= running_statistics(model):
            return None
        exact = all(weights[name].dtype == own[name].dtype for name in own.keys() & weights.keys())
        model.load_state_dict({name: weights.get(name, like) for name, like in own.items()})
        if missing:
            device = self._device()
            candidates = next_candidates(self._inputs, self._steps, device)
            config = self._inputs.config
            with repeatable(device, config.compute.tf32), threads(config.trainer.threads):
                recalibrate_batchnorm(model.to(device), (batch.inputs for batch in candidates))
        save_model(self._folder, model)
        save_adapter(self._folder, adapter_files(model))
        return weights_sha256(model) if exact else None

    def _device(self) -> torch.device:
        """That of the scorer in this process, or the CPU if none is here."""
        return service_device(self._inputs.config, self._workers) or torch.device("cpu")

    def _summarise(self, sha256: str | None) -> dict[str, Any]:
        inputs, path, steps = self._inputs, self._folder.path, self._steps
        selection, seconds = inputs.config.selection, time.monotonic() - self._started
        trained = steps * selection.n_b
        scored = steps * selection.n_B if inputs.scoring.needs.forward else 0
        progress = Progress(steps, seconds, _seconds(path, "wait_ms"), scored)
        if isinstance(inputs, RunInputs):
            device = self._device()
            model = inputs.new_model().to(device)
            flops = count_flops(inputs, progress, model, {}, trained)
        else:
            each = self._point_flops
            flops = {
                "train": STEP_FORWARDS * trained * each,
                "score": scored * each,
                "il": il_flops(inputs),
            }
        return summary_of(inputs, self._folder, self._workers, progress, sha256, flops)


def _rows_before(folder: Path, step: int, n_B: int) -> Iterator[StepRecord]:
    """The rows before ``step`` that are in no part which ends there or earlier."""
    whole = end_of_parts(folder, step)
    found = {row.step: row for row in rows_after(folder, whole)}
    for tail in _tails(folder):
        for line in tail.read_text("utf-8").split("\n")[:-1]:
            row = StepRecord(**json.loads(line))
            found[row.step] = row
    for each in range(whole, step):
        unknown = StepRecord(each, each, [], [], None, 0, n_B, 0.0, 0.0, None, None)
        yield found.get(each, unknown)


def _tails(folder: Path) -> list[Path]:
    """The tails of a folder, the newest generation last."""
    found = (folder / "steps").glob("tail-*.jsonl")
    return sorted(found, key=lambda path: int(path.stem.removeprefix("tail-")))


def _seconds(folder: Path, column: str) -> float:
    """The sum over all steps of a column of milliseconds."""
    return float(read_steps(folder, [column])[column].to_numpy().sum()) / 1e3
