"""A run on the terminal: one live line, or a plain line every few seconds if it is no terminal."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rhoselect.status import Status

REFRESH_HZ = 4
PLAIN_EVERY_S = 10.0


class Shown(Protocol):
    """What a display shows: a run."""

    @property
    def latest(self) -> Status:
        """The last known status."""
        ...


Show = Callable[[Shown], None]


class _Look:
    """The status of a run that was shown, once it has taken a step since: before, it starts."""

    def __init__(self) -> None:
        self._run: Shown | None = None
        self._first = 0

    def show(self, run: Shown) -> None:
        self._run, self._first = run, run.latest.step

    def __call__(self) -> Status | None:
        now = None if self._run is None else self._run.latest
        return now if now is not None and now.step > self._first else None


@contextmanager
def display(console: Console, name: str, steps: int, before: str) -> Iterator[Show]:
    """Show a run of ``steps`` steps within the block; call the yielded function with the run.
    ``before`` says what goes on until its first step."""
    look = _Look()
    if not console.is_terminal:
        with _plain_lines(console, name, steps, before, look):
            yield look.show
        return
    progress = Progress(
        TextColumn(f"[bold]{name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
        console=console,
    )
    task = progress.add_task(name, total=steps, facts=before)

    def render() -> Progress:
        if now := look():
            progress.update(task, completed=now.step, facts=facts(now))
        return progress

    with Live(console=console, get_renderable=render, refresh_per_second=REFRESH_HZ):
        yield look.show


def facts(status: Status) -> str:
    """The main figure, candidates scored per second, staleness and the share of time waited."""
    seconds, name = max(status.wall_seconds, 1e-9), status.metric_name.replace("_", " ")
    return (
        f"{name} {_known(status.metric, '.4f')}  loss {_known(status.loss, '.3f')}"
        f"  {status.scored_points / seconds:,.0f} points/s"
        f"  staleness {status.staleness}  waiting {status.wait_seconds / seconds:.0%}"
    )


def _known(value: float, pattern: str) -> str:
    return "-" if math.isnan(value) else format(value, pattern)


@contextmanager
def _plain_lines(
    console: Console, name: str, steps: int, before: str, look: _Look
) -> Iterator[None]:
    stop = threading.Event()

    def print_lines() -> None:
        started = time.monotonic()
        while not stop.wait(PLAIN_EVERY_S):
            elapsed_s = time.monotonic() - started
            said = f"step {now.step}/{steps}  {facts(now)}" if (now := look()) else before
            line = f"{name}: {said}  {elapsed_s:.0f} s"
            console.print(line, soft_wrap=True, highlight=False, markup=False)

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        stop.set()
        printer.join()
