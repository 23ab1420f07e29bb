"""The catalogue of bad inputs: exit code 2 (1 for a failure), one line, nothing half made."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from bad_calls import CALLS, Call
from bad_pictures import PICTURES
from bad_points import POINTS
from bad_settings import SETTINGS
from bad_tables import TABLES
from bad_tasks import TASKS
from bad_tokens import TOKENS

from cases import Case, Place
from rhoselect.errors import UserError
from support import DEADLINE_S, rhoctl, start

CASES = SETTINGS + PICTURES + TABLES + POINTS + TOKENS + TASKS
MOST_CHARACTERS = 1500  # of a message: read in one look, however many names a source has
IN_A_PROCESS = {"not TOML", "unknown key", "option"}


@pytest.fixture
def place(tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("RHOSELECT_QUEUE_PASSWORD", raising=False)
    return Place(tmp_path, tiny_config)


def content(folder: Path) -> dict[str, bytes]:
    """Every entry below a folder, with the bytes of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def one_line(case: Case, code: int, out: str, err: str) -> None:
    assert code == case.code, (out, err)
    assert err.startswith("rhoctl: ") and err.count("\n") == 1, err
    assert "Traceback" not in out + err
    assert len(err) < MOST_CHARACTERS
    assert re.search(case.pattern, err), err


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_bad_input(case: Case, place: Place) -> None:
    arguments = case.build(place)
    before = content(place.folder)
    result = rhoctl(*arguments)
    one_line(case, result.code, result.out, result.err)
    assert content(place.folder) == before


@pytest.mark.parametrize("case", CALLS, ids=lambda case: f"{case.kind}: {case.name}")
def test_bad_call(case: Call, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=case.pattern) as raised:
        case.call(tmp_path / "new.parquet")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < MOST_CHARACTERS
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in IN_A_PROCESS], ids=lambda case: case.name
)
def test_a_process_of_its_own(case: Case, place: Place) -> None:
    process = start(*case.build(place))
    out, errors = process.communicate(timeout=DEADLINE_S)
    one_line(case, process.wait(), out, errors)


def test_the_catalogue_is_wide_and_has_no_doubles() -> None:
    cases = [*CASES, *CALLS]
    kinds = Counter(case.kind for case in cases)
    names = Counter((case.kind, case.name) for case in cases)
    assert len(CASES) >= 100 and len(kinds) >= 12
    assert max(kinds.values()) <= 10, kinds
    assert max(names.values()) == 1, names
    assert {case.name for case in CASES} >= IN_A_PROCESS
