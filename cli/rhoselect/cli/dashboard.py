"""The status of a running run: for people a dashboard or a line, for programs JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rhoselect.cli.display import facts
from rhoselect.protos import control_pb2 as pb
from rhoselect.status import Status

BAR, SHARE_BAR = 40, 10
QUEUE_LINES = 7
OTHER_LINES = QUEUE_LINES + 6
"""Lines of a picture beside the workers: frame, step, space, the parts, head, what is left out."""
COLOURS = {"starting": "yellow", "running": "green", "silent": "red", "refused": "red"}
MOST_NOTES = 3


def as_json(run: pb.RunStatus) -> dict[str, Any]:
    """The whole status in plain types, with rates since the start; what is unknown is null."""
    seconds = max(run.wall_seconds, 1e-9)
    return {
        "run_dir": run.run_dir,
        "run_id": run.run_id,
        "generation": run.generation,
        "step": run.step,
        "steps": run.steps,
        "paused": run.paused,
        "inexact": run.inexact or None,
        "loss": _known(run.loss),
        "accuracy": _known(run.accuracy),
        "metric": _known(run.metric),
        "metric_name": run.metric_name,
        "lag": run.lag,
        "staleness": run.staleness,
        "staleness_counts": [_staleness_json(count) for count in run.staleness_counts],
        "wall_seconds": run.wall_seconds,
        "trainer_wait_seconds": run.wait_seconds,
        "trainer_wait_share": run.wait_seconds / seconds,
        "scored_points": run.scored_points,
        "scored_points_per_second": run.scored_points / seconds,
        "queue": _queue_json(run.queue),
        "workers": [_worker_json(worker) for worker in run.workers],
    }


def _staleness_json(count: pb.StalenessCount) -> dict[str, Any]:
    bound = count.up_to_steps if count.HasField("up_to_steps") else None
    return {"up_to_steps": bound, "points": count.points}


def _queue_json(queue: pb.QueueStatus) -> dict[str, Any]:
    found = {field.name: getattr(queue, field.name) for field in queue.DESCRIPTOR.fields}
    if not queue.HasField("oldest_version"):
        found["oldest_version"] = None
    return found


def _worker_json(worker: pb.WorkerStatus) -> dict[str, Any]:
    return {
        "slot": worker.slot,
        "state": state_name(worker),
        "pid": worker.pid or None,
        "restarts": worker.restarts,
        "scored_points": worker.scored_points,
        "refused": worker.refused or None,
    }


def line(run: pb.RunStatus) -> str:
    """A run in one line."""
    status = Status(
        step=run.step,
        loss=run.loss,
        accuracy=run.accuracy,
        metric=run.metric,
        metric_name=run.metric_name,
        staleness=run.staleness,
        wall_seconds=run.wall_seconds,
        wait_seconds=run.wait_seconds,
        scored_points=run.scored_points,
    )
    paused = ", paused" if run.paused else ""
    answering = sum(worker.state == pb.WORKER_STATE_RUNNING for worker in run.workers)
    workers = f"  {answering} of {len(run.workers)} workers" if run.workers else ""
    name = Path(run.run_dir).name
    return f"{name}: step {run.step}/{run.steps}{paused}  {facts(status)}{workers}"


def notes(run: pb.RunStatus) -> list[str]:
    """What is wrong with a run, at most `MOST_NOTES` lines."""
    found = [f"not exact: {run.inexact}"] if run.inexact else []
    found += [worker.refused for worker in run.workers if worker.refused]
    return found[:MOST_NOTES]


def picture(run: pb.RunStatus, before: pb.RunStatus | None, height: int = 1000) -> RenderableType:
    """A run as a dashboard of 80 columns or more and at most ``height`` lines; rates are since the
    look ``before``, if there was one."""
    paused = Text(" paused ", "black on yellow") if run.paused else Text("")
    top = Table.grid(padding=(0, 1))
    top.add_row(f"step {run.step}/{run.steps}", ProgressBar(run.steps, run.step, BAR), paused)
    parts = Table.grid(padding=(0, 2))
    parts.add_row(_facts(run, before), _staleness(run), _queue(run))
    title = Text(f"{Path(run.run_dir).name}  generation {run.generation}")
    noted = [Text(note, "red", no_wrap=True, overflow="ellipsis") for note in notes(run)]
    taken = OTHER_LINES + len(noted) + max(0, len(run.staleness_counts) - QUEUE_LINES)
    below = [_workers(run, before, max(1, height - taken))] if run.workers else []
    return Panel(Group(top, "", parts, *below, *noted), title=title)


def state_name(worker: pb.WorkerStatus) -> str:
    """A ``metrics.WorkerState``."""
    return pb.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower()


def _facts(run: pb.RunStatus, before: pb.RunStatus | None) -> Table:
    since, seconds = before or pb.RunStatus(), _seconds(run, before)
    table = Table.grid(padding=(0, 1))
    table.add_row(f"test {run.metric_name.replace('_', ' ')}", _text(run.metric, ".4f"))
    table.add_row("training loss", _text(run.loss, ".3f"))
    table.add_row("steps/s", _text((run.step - since.step) / seconds, ",.1f"))
    points = run.scored_points - since.scored_points
    table.add_row("points/s", _text(points / seconds, ",.0f"))
    waited = run.wait_seconds - since.wait_seconds
    table.add_row("trainer waits", _text(waited / seconds, ".0%"))
    table.add_row("lag", str(run.lag))
    return table


def _staleness(run: pb.RunStatus) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row("staleness", "selected")
    counts = [count for count in run.staleness_counts if count.points]
    for count, share in zip(counts, percents([each.points for each in counts]), strict=True):
        steps = f"<= {count.up_to_steps}" if count.HasField("up_to_steps") else "more"
        table.add_row(steps, f"{'█' * round(SHARE_BAR * share / 100)} {share}%")
    return table


def percents(counts: Sequence[int]) -> list[int]:
    """Shares of the sum in whole percents that add up to 100: those with the greatest remainders
    are rounded up."""
    total = sum(counts)
    shares = [100 * count // total for count in counts]
    order = sorted(range(len(counts)), key=lambda place: -(100 * counts[place] % total))
    for place in order[: 100 - sum(shares)]:
        shares[place] += 1
    return shares


def _queue(run: pb.RunStatus) -> Table:
    queue, table = run.queue, Table.grid(padding=(0, 1))
    table.add_row("windows open", str(queue.windows))
    table.add_row("waiting", str(queue.waiting))
    table.add_row("leased", str(queue.leased))
    table.add_row("re-issued", str(queue.reclaimed))
    table.add_row("pushed late", str(queue.late))
    table.add_row("points held", str(queue.points))
    table.add_row("rejected", str(queue.rejected))
    return table


def _workers(run: pb.RunStatus, before: pb.RunStatus | None, room: int) -> RenderableType:
    """``room`` workers, those first that do not run, and how many are left out."""
    earlier = {w.pid: w.scored_points for w in before.workers} if before else {}
    seconds = _seconds(run, before)
    table = Table("worker", "state", "pid", "restarts", "points/s", box=None, padding=(0, 2))
    ordered = sorted(run.workers, key=lambda worker: worker.state == pb.WORKER_STATE_RUNNING)
    for worker in ordered[:room]:
        rate = (worker.scored_points - earlier.get(worker.pid, 0)) / seconds
        name = state_name(worker)
        state = Text(name, COLOURS.get(name, ""))
        table.add_row(
            str(worker.slot),
            state,
            str(worker.pid or "-"),
            str(worker.restarts),
            _text(rate, ",.0f"),
        )
    left = Counter(state_name(worker) for worker in ordered[room:])
    if not left:
        return table
    return Group(table, "  and " + ", ".join(f"{count} {name}" for name, count in left.items()))


def _seconds(run: pb.RunStatus, before: pb.RunStatus | None) -> float:
    """The time of the run since the look ``before``; NaN in a pause, which is not its time, and
    while a step lasts, after which the run tells its time."""
    seconds = run.wall_seconds - (before.wall_seconds if before else 0.0)
    return seconds if seconds > 0 and not run.paused else math.nan


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: float, pattern: str) -> str:
    return "-" if math.isnan(value) else format(value, pattern)
