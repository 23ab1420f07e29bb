"""Where Fashion-MNIST comes from: a folder, a Debian package, or its official address.

Whatever the way, the four files are checked by sha256 (of the *unzipped* bytes: Debian zips them
anew), so that every way gives the same data set.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path

from rhoselect.errors import DataError, shortened
from rhoselect.sources.idx import find_idx, read_bytes, read_idx_folder
from rhoselect.sources.source import Splits

PACKAGE = "dataset-fashion-mnist"
INSTALLED = "usr/share/datasets/fashion-mnist"
# The address that the data set's authors publish is the second; the first is the same store by TLS.
ADDRESSES = (
    "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
HTTP_TIMEOUT_S = 20
APT_TIMEOUT_S = 300


def read_fashion_mnist(src: str) -> tuple[Splits, str]:
    """Images [N, 1, 28, 28] uint8 and labels [N] uint8, and a word on where they came from.

    ``src`` is a folder to look into first, or "auto". Raises DataError listing what was tried.
    """
    tried = []
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as scratch:
        for place, find in _places(src, Path(scratch)):
            try:
                folder = find()
                check_files(folder)
                return read_idx_folder(folder), f"Fashion-MNIST from {place}"
            except (DataError, OSError, HTTPException, subprocess.SubprocessError) as error:
                tried.append(f"{place}: {_reason(error)}")
    raise DataError(
        f"Fashion-MNIST: not found; tried {'; '.join(tried)}; give a folder with its four files"
    )


def check_files(folder: Path) -> None:
    """Raises DataError unless the four files are there and are Fashion-MNIST's."""
    for name, expected in SHA256.items():
        path = find_idx(folder, name)
        if (got := hashlib.sha256(read_bytes(path)).hexdigest()) != expected:
            raise DataError(f"{path}: got sha256 {got} (unzipped), allowed {expected}")


def package_folder(scratch: Path) -> Path:
    """The Debian package, downloaded and unpacked under ``scratch`` without root.

    apt works on lists and a cache of its own there, so neither rights nor fresh lists are needed.
    """
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "status").touch()
    options = {
        "Dir::State": scratch / "state",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": 0,
        "Acquire::http::Timeout": HTTP_TIMEOUT_S,
        "Acquire::https::Timeout": HTTP_TIMEOUT_S,
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    # One broken source fails an update, though the others suffice: the download decides.
    _run([*apt, "update"], scratch, check=False)
    _run([*apt, "download", PACKAGE], scratch)
    packages = list(scratch.glob("*.deb"))
    if not packages:
        raise DataError(f"apt-get downloaded no {PACKAGE}")
    _run(["dpkg-deb", "-x", str(packages[0]), "unpacked"], scratch)
    return scratch / "unpacked" / INSTALLED


def download(address: str, scratch: Path) -> Path:
    """The four files from ``address``, in a folder under ``scratch``."""
    scratch.mkdir(parents=True)
    for name in SHA256:
        url = f"{address}/{name}.gz"
        with (
            urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_S) as answer,
            (scratch / f"{name}.gz").open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    return scratch


def _places(src: str, scratch: Path) -> list[tuple[str, Callable[[], Path]]]:
    places: list[tuple[str, Callable[[], Path]]] = []
    if src != "auto":
        places.append((f"the folder {src}", partial(Path, src)))
    places += [
        ("the installed Debian package", partial(Path, "/", INSTALLED)),
        ("the Debian package by apt-get", partial(package_folder, scratch)),
    ]
    for number, address in enumerate(ADDRESSES):
        places.append((address, partial(download, address, scratch / f"download-{number}")))
    return places


def _run(command: list[str], folder: Path, check: bool = True) -> None:
    subprocess.run(
        command, cwd=folder, check=check, capture_output=True, text=True, timeout=APT_TIMEOUT_S
    )


def _reason(error: Exception) -> str:
    """The cause on one line; of a command that failed, the last line it wrote."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = str(error.stderr).strip().splitlines()
        return lines[-1] if lines else f"{error.cmd[0]} failed"
    return shortened(str(error))
