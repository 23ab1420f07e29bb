"""The documentation: every link leads somewhere, and the index names every page."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from rhoselect.config import load, parse, resolve
from rhoselect.config.reference import sections
from support import made

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "benchmarks")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))]
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(("page", "script"), [("configuration", "config"), ("kinds", "kinds")])
def test_a_page_made_from_code_is_what_its_script_writes(page: str, script: str) -> None:
    path = ROOT / "scripts" / f"{script}_page.py"
    made = runpy.run_path(str(path))["page"]()
    assert (ROOT / "docs" / f"{page}.md").read_text() == made, f"run python {path}"


def test_a_dry_run_shows_the_meaning_of_each_key(tiny_config: Path, tmp_path: Path) -> None:
    shown = made("train", tiny_config, "--dry-run", "--run-dir", tmp_path / "run").out
    for key in (key for section in sections() for key in section.keys):
        assert f"# {key.about} ({key.allowed})\n" in shown
    assert parse(tomllib.loads(shown)) == resolve(load(tiny_config))


def test_a_dry_run_shows_groups_of_parameters(tiny_config: Path, tmp_path: Path) -> None:
    groups = "[{pattern = '*.bias'}, {optimizer = {name = 'SGD', args = {momentum = 0.5}}}]"
    words = (
        "--set",
        f"trainer.groups={groups}",
        "--set",
        "trainer.optimizer.args={betas=[0.5,0.9]}",
    )
    shown = made("train", tiny_config, "--dry-run", "--run-dir", tmp_path / "run", *words).out
    assert shown.count("\n[[trainer.groups]]\n") == 2
    assert parse(tomllib.loads(shown)) == resolve(load(tiny_config, words[1::2]))


def test_every_key_has_a_meaning_and_what_is_allowed() -> None:
    described = {f"{s.name}.{key.name}": key for s in sections() for key in s.keys}
    assert all(key.about and key.allowed for key in described.values())
    threads = described["scorer.threads"]
    assert (threads.default, threads.allowed, threads.free) == (
        "1",
        "whole number >= 1, <= 1024",
        False,
    )
    assert described["data.path"].free and described["data.path"].allowed == "path"
    assert described["selection.bn"].allowed == '"auto" or "running" or "batch"'
    assert described["service.address"].free


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert [name for name in sorted(pages) if f"]({name}" not in index] == []
