"""Auto-lag's choices, against scripted step times and audits."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from rhoselect.trainer.audit import Audit
from rhoselect.trainer.tuner import TRIAL_STEPS, Choice, Tuner, Way

FRESH, ALONE, SHARED = Way(0, False), Way(1, False), Way(1, True)
WAYS = [FRESH, ALONE, SHARED]
SETTLE, PHASE = 4, 100


class Run:
    """Steps whose time depends on the way in force; those right after a change are slow."""

    def __init__(self, step_ms: dict[Way, float], captured: float, agreement: float = 0.9) -> None:
        self.in_force: list[Way] = []
        self.choices: list[Choice] = []
        self._step_ms, self.captured, self.step = step_ms, captured, 0
        self.tuner = Tuner(WAYS, agreement, PHASE, SETTLE, self._apply)

    def _apply(self, way: Way) -> None:
        self.in_force.append(way)
        self._since_change = 0

    def go(self, steps: int) -> Run:
        for _ in range(steps):
            if self.tuner.due(self.step):
                self.tuner.begin(self.step, [Audit(1, 0.99, 0.8, self.captured)])
            self._since_change += 1
            settling = self._since_change <= SETTLE
            step_ms = 1000.0 if settling else self._step_ms[self.in_force[-1]]
            if choice := self.tuner.observe(self.step, step_ms):
                self.choices.append(choice)
            self.step += 1
        return self


def test_the_fastest_way_is_chosen_and_every_way_was_tried() -> None:
    run = Run({FRESH: 140.0, ALONE: 130.0, SHARED: 120.0}, captured=1.0).go(PHASE)
    [choice] = run.choices
    assert choice.way == run.in_force[-1] == SHARED
    assert run.in_force == [FRESH, ALONE, SHARED, SHARED]
    assert choice.step_ms == {FRESH: 140.0, ALONE: 130.0, SHARED: 120.0}, "settled steps only"
    assert choice.step == 3 * (SETTLE + TRIAL_STEPS) - 1


def test_time_counts_by_what_a_stale_choice_is_worth() -> None:
    """Ten percent faster, but picks that have a fifth less: it takes longer to get there."""
    times = {FRESH: 100.0, ALONE: 95.0, SHARED: 90.0}
    [choice] = Run(times, captured=0.8, agreement=0.5).go(PHASE).choices
    assert choice.way == FRESH
    [choice] = Run(times, captured=0.95, agreement=0.5).go(PHASE).choices
    assert choice.way == SHARED


def test_a_lag_below_the_agreement_is_not_even_tried() -> None:
    run = Run({FRESH: 140.0, ALONE: 1.0, SHARED: 1.0}, captured=0.89).go(PHASE)
    assert set(run.in_force) == {FRESH}
    assert run.choices[0].way == FRESH


def test_each_phase_looks_again() -> None:
    run = Run({FRESH: 140.0, ALONE: 130.0, SHARED: 120.0}, captured=1.0).go(PHASE)
    run.captured = 0.5
    run.go(PHASE)
    assert [choice.way for choice in run.choices] == [SHARED, FRESH]
    assert run.in_force[-1] == FRESH


def test_trials_longer_than_a_phase_end_all_the_same() -> None:
    run = Run({FRESH: 3.0, ALONE: 2.0, SHARED: 1.0}, captured=1.0)
    run.tuner = Tuner(WAYS, 0.9, 5, SETTLE, run._apply)
    assert run.go(200).choices


@given(
    times=st.tuples(*[st.floats(0.1, 1e4)] * 3),
    captured=st.floats(0.01, 1.5),
    agreement=st.floats(0.01, 1),
)
def test_never_slower_than_lag_0_and_never_below_the_agreement(
    times: tuple[float, float, float], captured: float, agreement: float
) -> None:
    step_ms = dict(zip(WAYS, times, strict=True))
    [choice] = Run(step_ms, captured, agreement).go(PHASE).choices
    assert step_ms[choice.way] <= step_ms[FRESH]
    assert choice.way.lag == 0 or captured >= agreement


def test_a_choice_is_a_line_of_json() -> None:
    [choice] = Run({FRESH: 3.0, ALONE: 2.0, SHARED: 1.0}, captured=0.9).go(PHASE).choices
    line = json.loads(json.dumps(choice.to_json()))
    assert line["chosen"] == {"lag": 1, "by_scorers": True}
    assert [tried["step_ms"] for tried in line["tried"]] == [3.0, 2.0, 1.0]
    assert line["audits"] == [{"lag": 1, "rank_agreement": 0.99, "overlap": 0.8, "captured": 0.9}]
