"""Requests between two steps: a trainer in a thread, asked from this one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rhoselect.errors import FencedError, RunError, WaitError
from rhoselect.trainer.control import StopPoint, TrainerControl

PATIENCE_S = 20.0


class Trainer:
    """Polls after every step; steps end while ``free`` is set."""

    def __init__(self, control: TrainerControl) -> None:
        self._control, self.free = control, threading.Event()
        self.step, self.saved = 0, list[int]()

    def run(self) -> None:
        while not self._control.poll(self.step, self._save, lambda: None):
            self.free.wait()
            self.step += 1
        self._control.close()

    def _save(self) -> Path:
        self.saved.append(self.step)
        return Path(f"step-{self.step}")


@contextmanager
def running(free: bool = True) -> Iterator[tuple[TrainerControl, Trainer]]:
    control = TrainerControl()
    trainer = Trainer(control)
    if free:
        trainer.free.set()
    with ThreadPoolExecutor(1) as pool:
        ran = pool.submit(trainer.run)
        try:
            yield control, trainer
        finally:
            trainer.free.set()
            with suppress(RunError):
                control.request("stop", PATIENCE_S)
        ran.result(PATIENCE_S)


def test_a_pause_holds_at_the_end_of_a_step_until_resumed() -> None:
    with running() as (control, trainer):
        point = control.request("pause", PATIENCE_S)
        assert point.checkpoint is None and control.paused
        assert control.request("pause", PATIENCE_S) == point, "twice is once"
        assert control.request("checkpoint", PATIENCE_S) == StopPoint(
            point.step, Path(f"step-{point.step}")
        )
        assert trainer.step == point.step
        control.request("resume")
        while trainer.step == point.step:
            pass
        after = control.request("stop", PATIENCE_S)
        assert after.step > point.step and trainer.saved == [point.step, after.step]
        with pytest.raises(RunError, match="ended"):
            control.request("pause", PATIENCE_S)


def test_a_stop_ends_a_pause() -> None:
    with running() as (control, trainer):
        point = control.request("pause", PATIENCE_S)
        assert control.request("stop", PATIENCE_S).step == point.step
        assert trainer.saved == [point.step]


def test_who_asks_in_the_midst_of_a_long_step_is_told_and_heard_all_the_same() -> None:
    with running(free=False) as (control, trainer):
        told = None
        while told is None:  # the trainer may not have come to its first step yet
            before = len(trainer.saved)
            try:
                control.request("checkpoint", 0.05)
            except WaitError as error:
                told = str(error)
        assert "still within a step" in told
        trainer.free.set()
        assert control.request("stop", PATIENCE_S).step >= 1
    assert trainer.saved[before] == 1, "kept for the step's end"


def test_nobody_waits_for_a_trainer_that_failed() -> None:
    control = TrainerControl()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.request, "checkpoint", PATIENCE_S)
        while not asked.running():
            pass
        control.close()
        with pytest.raises(RunError, match="ended"):
            asked.result(PATIENCE_S)


def test_a_paused_trainer_notices_that_another_took_its_place() -> None:
    control = TrainerControl()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(control.request, "pause", PATIENCE_S)

        def fenced() -> None:
            raise FencedError("a newer trainer")

        while not control.paused:
            pass
        with pytest.raises(FencedError):
            control.poll(1, Path, fenced)


def test_a_signal_that_does_not_wake_the_trainer_is_handled() -> None:
    """As one does that comes just before the wait, or to another thread."""
    control = TrainerControl()
    pausing = threading.Thread(target=control.request, args=("pause", PATIENCE_S))
    pausing.start()
    while not control.paused:
        time.sleep(0.001)

    def signalled() -> None:
        pausing.join()  # the trainer is there
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    threading.Thread(target=signalled, daemon=True).start()
    before = signal.signal(signal.SIGUSR1, lambda *_: control.request("resume"))
    try:
        assert control.poll(1, Path, lambda: None) is False
    finally:
        signal.signal(signal.SIGUSR1, before)
