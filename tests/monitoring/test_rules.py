"""The files of deploy/: rules by promtool, and the dashboard as its script builds it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from prometheus_server import DEPLOY, panel_queries, promtool

from rhoselect.config import flat, is_free, parse
from rhoselect.metrics import Metrics
from support import ended_well, made
from warm import Process

FOLDER = DEPLOY / "prometheus"
ROOT = DEPLOY.parent
DOCS = ROOT / "docs"


def check(*arguments: str) -> None:
    done = subprocess.run([promtool(), *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_else_not() -> None:
    check("test", "rules", "rules_test.yml")


def test_the_scrape_configuration_is_valid() -> None:
    check("check", "config", "prometheus.yml")


def test_every_alert_has_a_test_a_way_out_and_a_place_in_the_documentation() -> None:
    rules = re.split(r"\n +- alert: ", (FOLDER / "alerts.yml").read_text())[1:]
    names = [rule.split("\n")[0] for rule in rules]
    tested = set(re.findall(r"Rhoselect\w+", (FOLDER / "rules_test.yml").read_text()))
    assert set(names) == tested
    assert all("summary:" in rule and "action:" in rule and "severity:" in rule for rule in rules)
    explained = (DOCS / "metrics.md").read_text()
    assert [name for name in names if f"`{name}`" not in explained] == []


def test_the_way_out_of_an_alert_can_be_taken() -> None:
    """It names keys and commands that there are, and keys that a run keeps for a new run alone."""
    rules = re.split(r"\n +- alert: ", (FOLDER / "alerts.yml").read_text())[1:]
    keys = flat(parse({"data": {"path": "d"}}).model_dump()).keys()
    for action in (" ".join(rule.partition("action: >-")[2].split()) for rule in rules):
        named = set(re.findall(r"\b(?:selection|scorer|trainer|queue|metrics)\.[a-z]\w*", action))
        assert named - {"trainer.log"} <= keys, action
        kept = {key for key in named & keys if not is_free(key)}
        assert not kept or " new run" in action, (kept, action)
        for command in re.findall(r"rhoctl ([a-z]+)", action):
            made(command, "--help")


def test_rules_and_panels_ask_for_what_there_is() -> None:
    exported: set[str] = {"rho_worker_state", "rho_worker_restarts_total"}
    for role in ("trainer", "driver"):
        for family in Metrics(role).registry.collect():
            exported.add(family.name)
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            exported |= {family.name + suffix for suffix in suffixes.get(family.type, [])}
    text = (FOLDER / "rules.yml").read_text()
    recorded = set(re.findall(r"record: (\S+)", text))
    asked = text + (FOLDER / "alerts.yml").read_text() + " ".join(q for _, q in panel_queries("a"))
    names = set(re.findall(r"\b(?:run(?:_\w+)?:)?rho_[\w:]+", asked))
    assert names - exported - recorded - {"rho_build_info"} == set()


def test_the_page_of_metrics_is_what_the_script_writes(tmp_path: Path) -> None:
    script, built = ROOT / "scripts" / "metrics_page.py", tmp_path / "metrics.md"
    ended_well(Process(str(script), str(built)))
    assert built.read_text() == (DOCS / "metrics.md").read_text(), f"run python {script}"


def test_the_script_builds_the_dashboard_that_is_checked_in(tmp_path: Path) -> None:
    script, built = DEPLOY / "grafana" / "dashboard.py", tmp_path / "built.json"
    ended_well(Process(str(script), str(built)))
    checked_in = DEPLOY / "grafana" / "dashboards" / "rhoselect.json"
    assert built.read_text() == checked_in.read_text(), f"run python {script}"
