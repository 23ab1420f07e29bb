"""Secrets are in files and environments alone: not in an argument, a run folder or an output."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from rhoselect.errors import ConfigError
from rhoselect.runtime import machine
from servers import PASSWORD, free_port, tcp_server
from support import DEADLINE_S, made, until

MARK = "RHOSELECT_TEST_MARK"


def offspring(mark: str) -> Iterator[tuple[str, bytes]]:
    """(name, arguments) of the processes that have inherited ``mark``."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                yield (process / "comm").read_text().strip(), (process / "cmdline").read_bytes()
        except OSError:  # gone, or somebody else's
            continue


@pytest.mark.matrix
def test_nobody_sees_a_password_or_a_token(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, mark = secrets.token_hex(16), secrets.token_hex(16)
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "token").write_text(token)
    run, port = tmp_path / "run", free_port()
    settings = [f"queue.url=redis://127.0.0.1:{port}", f"queue.password_file={tmp_path}/password"]
    settings += [f"service.token_file={tmp_path}/token", "trainer.steps=200"]
    flags = [word for setting in settings for word in ("--set", setting)]
    with tcp_server(tmp_path, port):  # which has the password among its arguments
        monkeypatch.setenv(MARK, mark)
        command = ["train", tiny_config, "--workers", "1", "--run-dir", run, *flags]
        process = subprocess.Popen(  # no fork, which shows the environment of the warm interpreter
            [sys.executable, "-m", "rhoselect.cli", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: (run / "control.json").exists(), process)
        made("pause", run)
        found = list(offspring(mark))
        made("resume", run)
        output = "".join(process.communicate(timeout=DEADLINE_S))
    assert process.returncode == 0, output
    assert len(found) > 3, "the command, Ray's processes, the actors"
    hidden = [PASSWORD.encode(), token.encode()]
    for name, arguments in found:
        assert not any(secret in arguments for secret in hidden), name
    assert not any(secret.decode() in output for secret in hidden)
    for folder, _, names in os.walk(run):
        for name in names:
            content = (Path(folder) / name).read_bytes()
            assert not any(secret in content for secret in hidden), name


def test_strangers_do_not_get_into_a_cluster_of_ours(ray_session: None, tmp_path: Path) -> None:
    """Whose ports are open to the network, and whose calls would run anything."""
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init({address!r}, log_to_driver=False); print('in')"
    ours = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
    others = {name: value for name, value in os.environ.items() if name not in ours}
    others["RAY_NUM_REDIS_GET_RETRIES"] = "1"  # a refused driver asks 20 times otherwise
    for shown, gets_in in (
        (ours, True),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}, False),
        ({"RAY_AUTH_MODE": "disabled"}, False),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**others, **shown, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert ("in" in done.stdout.split()) == gets_in, done.stderr


def test_a_folder_of_another_user_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with machine.scratch("x") as folder:
        assert (folder.stat().st_mode | folder.parent.stat().st_mode) & 0o077 == 0
    stranger = 2**31 + secrets.randbelow(2**30)
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    with pytest.raises(ConfigError, match="belongs to someone else"), machine.scratch("x"):
        pass
    Path(f"/tmp/rhoselect-{stranger}").rmdir()
