"""A real Prometheus watches a real run: panels have data, alerts can be asked, faults fire them."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_server import DEPLOY, Prometheus, panel_queries, running_prometheus, until

from support import made, start
from warm import Process

RUN = "watched-1"
SETTINGS = (
    "model={factory = 'user_code:Slow'}",
    "selection.lag=1",
    "selection.audit_every=5",
    "trainer.steps=1000000",
    "trainer.checkpoint_every=20",
    "queue.lease_s=1.0",
    "metrics.port=0",
)
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Watched:
    """A run that goes on for ever, and the Prometheus that watches it."""

    run: Path
    process: Process
    discovery: Path
    server: Prometheus

    def scorer(self) -> int:
        """The process number of its scorer."""
        log = (self.run / "logs" / "scorer-0.log").read_text()
        return int(re.findall(r"process (\d+) starts", log)[-1])

    def trainer(self) -> int:
        """The process number of its trainer."""
        log = (self.run / "logs" / "trainer.log").read_text()
        return int(re.findall(r"process (\d+) starts", log)[-1])

    def queue_server(self) -> int:
        """The process number of its embedded server, which begins every line of its log."""
        return int(
            re.findall(r"^(\d+):M", (self.run / "logs" / "queue-server.log").read_text(), re.M)[-1]
        )


@pytest.fixture(scope="module")
def watched(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One for all tests of the module; the later ones are faults."""
    folder = tmp_path_factory.mktemp("prometheus")
    run, discovery = folder / RUN, folder / "discovery"
    values = [*SETTINGS, f"metrics.discovery_dir={discovery}"]
    flags = [word for value in values for word in ("--set", value)]
    command = ["train", str(tiny_config), "--run-dir", str(run), "--workers", "1", *flags]
    with running_prometheus(folder, discovery) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        process = start(*command)
        everyone = f'count(up{{run="{RUN}"}} == 1) == 3 and on () max(rho_last_step) > 20'
        try:
            until(lambda: process.poll() is not None or server.ask(everyone), "three processes")
            assert process.poll() is None, process.communicate()
            yield Watched(run, process, discovery, server)
        finally:
            process.terminate()
            process.communicate(60)


def test_every_process_of_a_run_is_found(watched: Watched) -> None:
    got = [dict(labels) for labels in watched.server.ask(f'up{{run="{RUN}"}}')]
    roles = {labels["worker"]: labels["role"] for labels in got}
    assert roles == {"trainer": "trainer", "0": "scorer", "driver": "driver"}


@pytest.mark.parametrize(
    ("title", "query"),
    [pytest.param(*each, id=f"{i} {each[0]}") for i, each in enumerate(panel_queries(RUN))],
)
def test_every_query_of_the_dashboard_has_data(watched: Watched, title: str, query: str) -> None:
    got = until(lambda: watched.server.ask(query), query)
    assert all(dict(labels)["run"] == RUN for labels in got)


@pytest.mark.matrix
def test_the_numbers_make_sense(watched: Watched) -> None:
    def value(query: str) -> float:
        (number,) = until(lambda: watched.server.ask(query), query).values()
        return float(number)

    here = f'{{run="{RUN}"}}'
    assert value(f"rho_selection_ratio{here}") == 8 / 64
    assert value(f"rho_staleness_bound_steps{here}") == 1
    # The processes are scraped one after the other: the points of these steps may come later.
    steps, scored = value(f"rho_last_step{here}"), f"sum(rho_scored_points_total{here})"
    until(lambda: value(scored) >= 64 * steps, "the points of the steps so far")
    assert 0 <= value(f"run:rho_selected_staleness_steps:mean5m{here}") <= 1
    assert value(f"run:rho_queue_oldest_version:age_steps{here}") in (0, 1)
    busy = f'sum(run_role_phase:rho_busy:share1m{{run="{RUN}", role="trainer"}})'
    waits = f'sum(run_role_reason:rho_wait:share1m{{run="{RUN}", role="trainer"}})'
    # A trainer does one thing at a time, nearly; a rate takes a while to see all of a minute.
    until(lambda: 0.2 < value(f"{busy} + {waits}") < 1.5, "a trainer that is busy or waits")


@pytest.mark.parametrize("title", ["Trainer", "Scorers"])
def test_shares_of_time_add_up_to_all_of_it(watched: Watched, title: str) -> None:
    queries = [query for name, query in panel_queries(RUN) if name == title]
    parts = " or ".join(
        f'label_replace({query}, "part", "{number}", "", "")'
        for number, query in enumerate(queries)
    )
    found = until(lambda: watched.server.ask(f"sum by (role) ({parts})"), title)
    assert list(found.values()) == [pytest.approx(1.0)]


def test_every_rule_evaluates_and_the_series_that_alerts_ask_for_exist(watched: Watched) -> None:
    groups = watched.server.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}, [r for r in rules if r["health"] != "ok"]
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    assert len(alerts) == (DEPLOY / "prometheus" / "alerts.yml").read_text().count("- alert:")
    names = {
        name for rule in alerts for name in re.findall(r"\b(?:run:)?rho_[\w:]+", rule["query"])
    }
    for name in names:
        until(lambda: watched.server.ask(f"count({name})"), name)  # noqa: B023 - called now


@pytest.mark.matrix
def test_the_picture_has_a_curve_in_every_panel(watched: Watched) -> None:
    picture = _picture()
    figure = picture.page(watched.server.url, RUN, *_last_minute(watched.server))
    drawn = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    titles = {title for title, _ in panel_queries(RUN)}
    assert titles <= drawn.keys()
    assert [t for t in titles if not (drawn[t].lines or drawn[t].collections)] == []
    figure.canvas.draw()
    legends = [(axes, legend) for axes in figure.axes if (legend := axes.get_legend())]
    assert legends
    for axes, legend in legends:
        assert legend.get_window_extent().y1 <= axes.get_window_extent().y0, "it hides curves"
    picture.plt.close(figure)


def test_a_run_that_is_well_raises_no_alarm(watched: Watched) -> None:
    wrong = {"RhoselectTrainerDown", "RhoselectNoScorers", "RhoselectRunStalled"}
    wrong |= {"RhoselectScorerDown", "RhoselectTrainerFenced", "RhoselectStalenessAboveBound"}
    until(lambda: not wrong & watched.server.firing().keys(), "no alarm")


@pytest.mark.matrix
def test_a_hung_scorer_is_noticed_and_so_is_the_one_after_it(watched: Watched) -> None:
    """Until then the trainer scores by itself: the run does not stall."""
    server, restarts = watched.server, f'rho_worker_restarts_total{{run="{RUN}"}} == 1'
    os.kill(watched.scorer(), signal.SIGSTOP)
    alert = until(lambda: server.firing().get("RhoselectNoScorers"), "no scorer")
    assert alert["annotations"]["summary"] == f"No scorer of run {RUN} is alive."
    silent = f'rho_worker_state{{run="{RUN}", rho_worker_state="silent"}} == 1'
    until(lambda: server.ask(silent), "silence")
    os.kill(watched.scorer(), signal.SIGKILL)
    until(lambda: server.ask(restarts), "a restart")
    until(lambda: server.ask(f'up{{run="{RUN}", worker="0"}} == 1'), "another process")
    until(lambda: "RhoselectNoScorers" not in server.firing(), "all well again")


@pytest.mark.matrix
def test_a_queue_server_that_hangs_stalls_the_run(watched: Watched) -> None:
    server, queue = watched.server, watched.queue_server()
    until(lambda: "RhoselectRunStalled" not in server.firing(), "a run that goes on")
    os.kill(queue, signal.SIGSTOP)
    try:
        alert = until(lambda: server.firing().get("RhoselectRunStalled"), "a stalled run")
    finally:
        os.kill(queue, signal.SIGCONT)
    assert alert["labels"]["run"] == RUN
    assert "has taken no step for" in alert["annotations"]["summary"]
    until(lambda: "RhoselectRunStalled" not in server.firing(), "all well again")


def test_a_dead_trainer_is_seen_until_its_run_goes_on(watched: Watched) -> None:
    """The run has failed, so what it told Prometheus is still there."""
    os.kill(watched.trainer(), signal.SIGKILL)
    alert = until(lambda: watched.server.firing().get("RhoselectTrainerDown"), "the alarm")
    assert alert["labels"]["run"] == RUN
    until(lambda: watched.process.poll() is not None, "the end of rhoctl")
    assert watched.process.returncode == 1
    assert any("trainer" in path.name for path in watched.discovery.iterdir())


def test_a_run_that_ends_in_order_is_forgotten(tiny_config: Path, tmp_path: Path) -> None:
    discovery = tmp_path / "discovery"
    values = ("metrics.port=0", f"metrics.discovery_dir={discovery}")
    flags = [word for value in values for word in ("--set", value)]
    made("train", tiny_config, "--run-dir", tmp_path / "run", *flags)
    assert discovery.is_dir()
    assert not list(discovery.iterdir())
    assert not list((tmp_path / "run" / "logs" / "metrics").iterdir())


def _picture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("picture", DEPLOY / "grafana" / "picture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _last_minute(server: Prometheus) -> tuple[float, float]:
    end = float(server.get("query", query="time()")["result"][0])
    return end - 60, end
