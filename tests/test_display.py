"""What a run shows until its first step, and after."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from rhoselect.cli import display as displays
from rhoselect.status import Status
from support import DEADLINE_S


class Run:
    """A run as its display sees it."""

    latest = Status(7)


def seen(console: Console, line: str) -> None:
    """Wait until the console has shown a line."""
    assert isinstance(console.file, io.StringIO)
    deadline = time.monotonic() + DEADLINE_S
    while line not in console.file.getvalue():
        assert time.monotonic() < deadline, console.file.getvalue()
        time.sleep(0.005)


@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "terminal"])
def test_until_its_first_step_a_run_starts(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is resumed after step 7."""
    monkeypatch.setattr(displays, "PLAIN_EVERY_S", 0.01)
    monkeypatch.setattr(displays, "REFRESH_HZ", 100)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    run = Run()
    with displays.display(console, "a", 50, "starting 2 scorers") as show:
        seen(console, "starting 2 scorers")
        show(run)
        console.file = io.StringIO()
        seen(console, "starting 2 scorers")
        assert "accuracy" not in console.file.getvalue()
        run.latest = Status(8, metric=0.5)
        seen(console, "8/50")
        seen(console, "accuracy 0.5000")
