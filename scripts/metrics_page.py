"""Write docs/metrics.md, the list of all metrics and alerts, from the code and the alerts' file.

python scripts/metrics_page.py [FILE]
"""

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

from rhoselect.metrics import Metrics, Role

ROOT = Path(__file__).parent.parent
HEAD = """# Metrics and alerts

For operators who write queries or alerts: every metric of a run, the processes that export it, and
every alert. Set-up and dashboard: [monitoring.md](monitoring.md).

Prometheus shows counters with the ending `_total`. No label names a point or a version.
`python scripts/metrics_page.py` writes this page.

| metric | type | labels | processes | meaning |
|---|---|---|---|---|
"""
ALERTS = """
## Alerts

Thresholds suit steps of seconds. Change them in `deploy/prometheus/alerts.yml` for longer steps.

| alert | severity | if | for | what to do |
|---|---|---|---|---|
"""
ROLES: tuple[Role, ...] = ("trainer", "scorer", "driver")


def page() -> str:
    """The text of docs/metrics.md."""
    about: dict[str, tuple[str, str, str]] = {}
    roles: dict[str, list[str]] = {}
    for role in ROLES:
        for collector in Metrics(role).registry._collector_to_names:
            for family in collector.collect():
                named = collector if hasattr(collector, "_labelnames") else family
                labels = ", ".join(named._labelnames)
                about[family.name] = family.type, labels, family.documentation
                roles.setdefault(family.name, []).append(role)
    rows = [
        f"| `{name}` | {kind} | {labels} | {', '.join(roles[name])} | {text} |\n"
        for name, (kind, labels, text) in about.items()
    ]
    return HEAD + "".join(rows) + ALERTS + "".join(map(_alert, _rules()))


def _rules() -> list[dict[str, Any]]:
    """The alerts of deploy/prometheus/alerts.yml."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))
    return [rule for group in groups["groups"] for rule in group["rules"]]


def _alert(rule: dict[str, Any]) -> str:
    expression = " ".join(rule["expr"].split()).replace("|", "\\|")
    cells = (
        f"`{rule['alert']}`",
        rule["labels"]["severity"],
        f"`{expression}`",
        rule.get("for", ""),
        re.sub(r"\{\{.*?\}\}", "N", " ".join(rule["annotations"]["action"].split())),
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    default = ROOT / "docs" / "metrics.md"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=default)
    parser.parse_args().out.write_text(page(), "utf-8")
