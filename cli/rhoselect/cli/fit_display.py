"""A fit on the terminal: a line an epoch, and a bar of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rhoselect.trainer.fit import FitProgress


class FitDisplay(FitProgress):
    """Shows how fits go on: a line an epoch with its ``loss``, and on a terminal a bar of steps."""

    def __init__(self, progress: Progress, loss: str) -> None:
        self._progress, self._loss = progress, loss
        self._model = self._models = self._epochs = 0
        self._task = progress.add_task("fit", total=None)

    def begin(self, models: int, epochs: int, steps: int) -> None:
        self._models, self._epochs = models, epochs
        self._progress.update(self._task, total=models * epochs * steps)

    def step(self) -> None:
        self._progress.advance(self._task)

    def epoch(self, epoch: int, loss: float) -> None:
        self._model += epoch == 1
        which = f"model {self._model}/{self._models}, " if self._models > 1 else ""
        self._progress.console.print(
            f"{which}epoch {epoch}/{self._epochs}: {self._loss} {loss:.4f} nats", highlight=False
        )


@contextmanager
def fit_display(console: Console, loss: str) -> Iterator[FitDisplay]:
    """Show fits while the block runs; ``loss`` names what they report after each epoch."""
    columns = TextColumn("[bold]fit"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = console.is_terminal
    with Progress(*columns, console=console, disable=not shown, transient=True) as progress:
        yield FitDisplay(progress, loss)
