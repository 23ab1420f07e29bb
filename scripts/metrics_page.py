"""Write docs/metrics.md, the list of all metrics, from the code.

python scripts/metrics_page.py [FILE]
"""

import argparse
from pathlib import Path

from rhoselect.metrics import Metrics, Role

HEAD = """# Metrics

For operators who write queries or alerts: every metric of a run, and the processes that export it.
Set-up, dashboard and alerts: [monitoring.md](monitoring.md).

Prometheus shows counters with the ending `_total`. No label names a point or a version.
`python scripts/metrics_page.py` writes this page.

| metric | type | labels | processes | meaning |
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
    return HEAD + "".join(rows)


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "docs" / "metrics.md"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=default)
    parser.parse_args().out.write_text(page(), "utf-8")
