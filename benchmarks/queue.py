"""Runs ``queue_rates``: scored points a second through one queue server, and the trainer's pops.

    python benchmarks/queue.py --json docs/results/queue.json

The standard library has a module of this file's name, and python searches a script's folder first.
So that any benchmark here can be run, this file gives way to that module when it is imported.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path


def give_way() -> None:
    """Put the standard module in this one's place."""
    path = Path(sysconfig.get_path("stdlib")) / "queue.py"
    spec = importlib.util.spec_from_file_location("queue", path)
    assert spec is not None and spec.loader is not None
    sys.modules["queue"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["queue"])


if __name__ == "__main__":
    from queue_rates import main

    main()
elif __name__ == "queue":
    give_way()
