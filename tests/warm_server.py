"""The warm interpreter as a program: ``warm_server.py FD PYTHON``; see `warm`.

FD is the number of a listening socket, PYTHON what the forks take for their interpreter.
Ray is not imported: it reads the environment while it is loaded.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys

from rhoselect.cli.main import commands


def main() -> None:
    commands(["--help"])  # which imports all of them, and torch, but not Ray
    importlib.import_module("torch._dynamo")  # as torch does at an optimizer's first step
    gc.collect()
    gc.freeze()
    path, sys.executable = sys.path[1:], sys.argv[2]
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        arguments = fork_for_each(listener)
    if arguments is not None:
        run(arguments, path)


def fork_for_each(listener: socket.socket) -> list[str] | None:
    """Fork for every request: the arguments, in the fork; None, here, at the end of stdin."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                return fork_and_wait(connection)
    return None


def fork_and_wait(connection: socket.socket) -> list[str]:
    """The arguments, in a fork that is set up as asked for; this process tells how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, outs, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile() as file:
        asked = json.load(file)
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        for number, replaced in enumerate([os.open(os.devnull, os.O_RDONLY), *outs]):
            os.dup2(replaced, number)
            os.close(replaced)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        connection.sendall(f"{os.getpid()}\n".encode())
        return asked["arguments"]
    for out in outs:
        os.close(out)
    _, status = os.waitpid(child, 0)
    try:
        connection.sendall(f"{status}\n".encode())
    finally:
        os._exit(0)


def run(arguments: list[str], path: list[str]) -> None:
    """What Python does with ``-m MODULE ...``, ``-c CODE ...`` or ``FILE ...``, with this search
    path at the end."""
    added = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if arguments[0] == "-m":
        name, sys.argv = arguments[1], arguments[1:]
        sys.path = [os.getcwd(), *added, *path]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path = ["", *added, *path]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path = [os.path.dirname(arguments[0]), *added, *path]
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
