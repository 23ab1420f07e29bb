"""An external server over TCP with a password, shared by two runs at once."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from servers import PASSWORD, free_port, tcp_server
from support import ended_well, hashes, made, start


@pytest.mark.long
@pytest.mark.timeout(240)
def test_two_runs_on_one_server_do_not_touch_each_other(
    ray_address: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("RHOSELECT_QUEUE_PASSWORD", PASSWORD)
    with tcp_server(tmp_path, port) as url:
        processes = {}
        for seed in (1, 2):
            keys = (f"queue.url=redis://127.0.0.1:{port}", f"cluster.address={ray_address}")
            sets = [word for key in (*keys, f"seed={seed}") for word in ("--set", key)]
            where = ("--workers", 1, "--run-dir", tmp_path / f"{seed}")
            processes[seed] = start("train", tiny_config, *where, *sets)
        for process in processes.values():
            ended_well(process)
        with redis.Redis.from_url(url) as client:
            assert client.keys() == [], "a finished run leaves nothing behind"
    for seed in processes:
        alone = tmp_path / f"alone-{seed}"
        made("train", tiny_config, "--run-dir", alone, "--set", f"seed={seed}")
        assert hashes(tmp_path / f"{seed}") == hashes(alone)
        everything = "".join(
            path.read_text(errors="replace") for path in (tmp_path / f"{seed}").rglob("*.*")
        )
        assert PASSWORD not in everything
        assert quote(PASSWORD, safe="") not in everything
