"""Files that are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(PermissionError), replacing(path, check=refuse) as beside:
        beside.write_text("new")
    with pytest.raises(FileNotFoundError), replacing(path):
        (tmp_path / "missing").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
