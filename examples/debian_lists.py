"""Debian's package lists, without root: apt works on lists and a cache in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path


class Lists:
    """The lists of the releases that this machine's apt is set up with, under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        options = {
            "Dir::State": self._folder / "state",
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder / "cache",
            "Acquire::Languages": "en",
            "APT::Sandbox::User": "",
        }
        self._options = [f"-o{name}={value}" for name, value in options.items()]

    def update(self) -> None:
        """Fetch the lists, unless they are here."""
        if not self.paths("Packages"):
            self._run("apt-get", "update")

    def paths(self, kind: str) -> list[Path]:
        """The files of a kind: "Packages" or "Translation-en"."""
        return sorted((self._folder / "state" / "lists").glob(f"*_{kind}*"))

    def records(self, kind: str) -> Iterator[dict[str, str]]:
        """The records of these files: fields by name, with their further lines."""
        for path in self.paths(kind):
            record, name = dict[str, str](), ""
            for line in self._run("/usr/lib/apt/apt-helper", "cat-file", path).splitlines():
                if line.startswith(" "):
                    record[name] += "\n" + line[1:]
                elif line:
                    name, _, value = line.partition(": ")
                    record[name] = value
                elif record:
                    yield record
                    record = {}
            if record:
                yield record

    def download(self, packages: list[str], into: Path) -> list[Path]:
        """Fetch packages into a folder and return their files."""
        into.mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "download", *packages, cwd=into)
        return sorted(into.glob("*.deb"))

    def origin(self) -> dict[str, str]:
        """The SHA-256 of each list."""
        paths = [*self.paths("Packages"), *self.paths("Translation-en")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def _run(self, command: str, *words: object, cwd: Path | None = None) -> str:
        called = [command, *self._options, *map(str, words)]
        done = subprocess.run(called, cwd=cwd, check=True, stdout=subprocess.PIPE)
        return done.stdout.decode("utf-8", "replace")


def share(name: str, parts: int) -> int:
    """Which of ``parts`` equal shares a name falls into, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % parts


def write_origin(path: Path, **found: object) -> None:
    """What a data set was made from."""
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"wrote {path}")
