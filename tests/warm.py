"""Processes that are forks of a warm interpreter, one that has imported torch and all commands.

To start Python and to import torch takes seconds of a core; a fork takes milliseconds. The warm
interpreter has imported and nothing else: it has no thread of Python and no connection, and it ran
no operator of torch. A fork gets the arguments, the environment, the folder and the output that
a new interpreter would get, and a session of its own; it ends by an exit code or a signal of its
own. A test of what an import does starts a new interpreter instead.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO

HERE = Path(__file__).parent


class Process:
    """A fork, used as a `subprocess.Popen` whose output is text in pipes.

    ``arguments`` are those of Python: ``-m MODULE ...``, ``-c CODE ...`` or ``FILE ...``.
    """

    def __init__(self, *arguments: str) -> None:
        self.returncode: int | None = None
        (out, out_end), (errors, errors_end) = os.pipe(), os.pipe()
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(errors)
        self._texts = ["", ""]
        self._told = ask(warm_folder(), arguments, [out_end, errors_end])
        os.close(out_end)
        os.close(errors_end)
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        """The exit code, or the negative number of the signal; None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(int(self._told.readline()))
            self._told.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """The rest of its output and of its errors, when it ends. Raises TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        readers = [Thread(target=self._read, args=(which,), daemon=True) for which in (0, 1)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return self._texts[0], self._texts[1]

    def _read(self, which: int) -> None:
        stream = (self.stdout, self.stderr)[which]
        if not stream.closed:
            with stream:
                self._texts[which] = stream.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def ask(warm: Path | str, arguments: Sequence[str], outs: list[int]) -> IO[str]:
    """Have a process forked: a line with its number follows, then one with its wait status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{warm}/socket")
        socket.send_fds(connection, [b"f"], outs)
        asked = {
            "arguments": list(arguments),
            "environment": dict(os.environ),
            "folder": os.getcwd(),
        }
        connection.sendall(json.dumps(asked).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile()


@cache
def warm_folder() -> Path:
    """Where the warm interpreter of this process has its socket; the first call starts it.

    The program ``python`` in there is for Ray: its workers are forks, all else is as ever.
    """
    temporary = tempfile.TemporaryDirectory(prefix="warm-")
    folder = Path(temporary.name)
    python = folder / "python"
    python.write_text(PYTHON.format(real=sys.executable, here=str(HERE), folder=str(folder)))
    python.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        command = [sys.executable, HERE / "warm_server.py", str(listener.fileno()), python]
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # at whose end it ends
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        server.communicate()
        temporary.cleanup()

    atexit.register(end)
    return folder


PYTHON = """#!{real} -SE
import os, sys
if not "".join(sys.argv[1:2]).endswith("/default_worker.py"):
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
sys.path.insert(0, {here!r})
from warm import ask
told = ask({folder!r}, sys.argv[1:], [1, 2])
told.readline()
sys.exit(os.waitstatus_to_exitcode(int(told.readline())))
"""
