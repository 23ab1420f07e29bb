"""The gate between two steps: a trainer in a thread, asked from this one."""

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
from rhoselect.trainer.gate import Gate, Stand

PATIENCE_S = 20.0


class Trainer:
    """Comes by the gate after every step; steps end while ``free`` is set."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self.free = gate, threading.Event()
        self.step, self.saved = 0, list[int]()

    def run(self) -> None:
        while not self._gate.arrive(self.step, self._save, lambda: None):
            self.free.wait()
            self.step += 1
        self._gate.close()

    def _save(self) -> Path:
        self.saved.append(self.step)
        return Path(f"step-{self.step}")


@contextmanager
def running(free: bool = True) -> Iterator[tuple[Gate, Trainer]]:
    gate = Gate()
    trainer = Trainer(gate)
    if free:
        trainer.free.set()
    with ThreadPoolExecutor(1) as pool:
        ran = pool.submit(trainer.run)
        try:
            yield gate, trainer
        finally:
            trainer.free.set()
            with suppress(RunError):
                gate.stop(PATIENCE_S)
        ran.result(PATIENCE_S)


def test_a_pause_holds_at_the_end_of_a_step_until_resumed() -> None:
    with running() as (gate, trainer):
        stand = gate.pause(PATIENCE_S)
        assert stand.checkpoint is None and gate.paused
        assert gate.pause(PATIENCE_S) == stand, "twice is once"
        assert gate.checkpoint(PATIENCE_S) == Stand(stand.step, Path(f"step-{stand.step}"))
        assert trainer.step == stand.step
        gate.resume()
        while trainer.step == stand.step:
            pass
        after = gate.stop(PATIENCE_S)
        assert after.step > stand.step and trainer.saved == [stand.step, after.step]
        with pytest.raises(RunError, match="ended"):
            gate.pause(PATIENCE_S)


def test_a_stop_ends_a_pause() -> None:
    with running() as (gate, trainer):
        stand = gate.pause(PATIENCE_S)
        assert gate.stop(PATIENCE_S).step == stand.step
        assert trainer.saved == [stand.step]


def test_who_asks_in_the_midst_of_a_long_step_is_told_and_heard_all_the_same() -> None:
    with running(free=False) as (gate, trainer):
        told = None
        while told is None:  # the trainer may not have come to its first step yet
            before = len(trainer.saved)
            try:
                gate.checkpoint(0.05)
            except WaitError as error:
                told = str(error)
        assert "still within a step" in told
        trainer.free.set()
        assert gate.stop(PATIENCE_S).step >= 1
    assert trainer.saved[before] == 1, "kept for the step's end"


def test_nobody_waits_for_a_trainer_that_failed() -> None:
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gate.checkpoint, PATIENCE_S)
        while not asked.running():
            pass
        gate.close()
        with pytest.raises(RunError, match="ended"):
            asked.result(PATIENCE_S)


def test_a_paused_trainer_notices_that_another_took_its_place() -> None:
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.pause, PATIENCE_S)

        def fenced() -> None:
            raise FencedError("a newer trainer")

        while not gate.paused:
            pass
        with pytest.raises(FencedError):
            gate.arrive(1, Path, fenced)


def test_a_signal_that_does_not_wake_the_trainer_is_handled() -> None:
    """As one does that comes just before the wait, or to another thread."""
    gate = Gate()
    pausing = threading.Thread(target=gate.pause, args=(PATIENCE_S,))
    pausing.start()
    while not gate.paused:
        time.sleep(0.001)

    def signalled() -> None:
        pausing.join()  # the trainer is there
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    threading.Thread(target=signalled, daemon=True).start()
    before = signal.signal(signal.SIGUSR1, lambda *_: gate.resume())
    try:
        assert gate.arrive(1, Path, lambda: None) is False
    finally:
        signal.signal(signal.SIGUSR1, before)
