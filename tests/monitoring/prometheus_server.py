"""A real Prometheus with the files of deploy/prometheus, quickened: it looks every second, and what
an alert waits for is one second instead of minutes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from servers import free_port, missing

DEPLOY = Path(__file__).parents[2] / "deploy"
STALLED_S = 4
DEADLINE_S = 240.0


def prometheus_binary() -> str:
    """The ``prometheus`` binary: $PROMETHEUS (set by `make test`), else on PATH."""
    return os.environ.get("PROMETHEUS") or shutil.which("prometheus") or missing("prometheus")


def promtool() -> str:
    """The ``promtool`` beside it."""
    return str(Path(prometheus_binary()).with_name("promtool"))


def panel_queries(run: str) -> list[tuple[str, str]]:
    """Title and query of every panel of the dashboard, for one run."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "rhoselect.json").read_text())
    return [
        (panel["title"], target["expr"].replace("$run", run))
        for outer in dashboard["panels"]
        for panel in (outer, *(outer.get("panels") or []))
        for target in panel.get("targets", [])
    ]


def until(happened: Callable[[], Any], what: str) -> Any:
    """Look again and again until there is something; what it is."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := happened()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)
    return found


@dataclass(frozen=True)
class Prometheus:
    """A server at ``url``."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API."""
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=20) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str) -> dict[frozenset[tuple[str, str]], float]:
        """The series of an instant query by their labels."""
        results = self.get("query", query=query)["result"]
        return {frozenset(r["metric"].items()): float(r["value"][1]) for r in results}

    def firing(self) -> dict[str, dict[str, Any]]:
        """Alerts that fire, by name."""
        alerts = self.get("alerts")["alerts"]
        return {a["labels"]["alertname"]: a for a in alerts if a["state"] == "firing"}

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            return bool(urlopen(f"{self.url}/-/ready", timeout=5).status == 200)
        except URLError:
            return False


def quickened(folder: Path, discovery: Path) -> Path:
    """The files of deploy/prometheus in ``folder``; returns the configuration's path."""
    for path in (DEPLOY / "prometheus").glob("*.yml"):
        text = path.read_text()
        text = re.sub(r"(_interval|for): \d+[ms]", r"\1: 1s", text)
        text = text.replace("age_seconds > 300", f"age_seconds > {STALLED_S}")
        text = text.replace("/var/lib/rhoselect/metrics", str(discovery))
        (folder / path.name).write_text(text)
    return folder / "prometheus.yml"


@contextmanager
def running_prometheus(folder: Path, discovery: Path) -> Iterator[Prometheus]:
    """A server that watches ``discovery``."""
    port = free_port()
    command = [
        prometheus_binary(),
        f"--config.file={quickened(folder, discovery)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(lambda: process.poll() is not None or server.answers(), "an answer")
        assert process.poll() is None, (folder / "server.log").read_text()
        yield server
    finally:
        process.terminate()
        process.wait(20.0)
