"""Write docs/configuration.md, the list of all keys, from the configuration's schema.

python scripts/config_page.py [FILE]
"""

import argparse
from pathlib import Path

from rhoselect.config.reference import Key, sections

HEAD = """# Configuration

For users who write a TOML file, or `--set section.key=value`: every key with its default, what it
may be, and its effect. `rhoctl train my.toml --dry-run` prints the keys of a run with these words.

A key marked *free* has no effect on the result, so `--resume` may change it. A path may begin with
`~`; a relative one begins at the folder in which the run was started, and is kept as an absolute
one. Names of modules (`data.dataset`, `model.factory`, `selection.function`) are looked up in the
folder in which `rhoctl` runs, too. Inputs may move: give their new place with `--set`; what they
hold is compared. TOML is always UTF-8.

`python scripts/config_page.py` writes this page.
"""
TABLE = "\n| key | default | allowed | effect |\n|---|---|---|---|\n"


def page() -> str:
    """The text of docs/configuration.md."""
    parts = [HEAD]
    for section in sections():
        title = f"\n## {section.header}\n\n{section.about}\n" if section.name else ""
        parts.append(title + TABLE + "".join(map(_row, section.keys)))
    return "".join(parts)


def _row(key: Key) -> str:
    free = " *free*" if key.free else ""
    cells = (
        f"`{key.name}`{free}",
        f"`{key.default}`" if key.default else "",
        key.allowed,
        key.about,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "docs" / "configuration.md"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=default)
    parser.parse_args().out.write_text(page(), "utf-8")
