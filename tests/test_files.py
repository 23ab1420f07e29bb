"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rhoselect.files import replacing


def refuse() -> None:
    raise PermissionError("not any more")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_mode_that_the_user_chose(tmp_path: Path, umask: int, mode: int) -> None:
    """Also one that a library makes private, as safetensors does."""
    path = tmp_path / "weights.safetensors"
    before = os.umask(umask)
    try:
        with replacing(path) as beside:
            save_file({"a": torch.ones(2)}, beside)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_every_file_of_a_run_may_be_read_by_others_but_its_token(mixed_run: Path) -> None:
    private = [path.name for path in mixed_run.rglob("*") if not path.stat().st_mode & 0o004]
    assert private in ([], ["control.token"])


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(PermissionError), replacing(path, check=refuse) as beside:
        beside.write_text("new")
    with pytest.raises(FileNotFoundError), replacing(path):
        (tmp_path / "missing").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
