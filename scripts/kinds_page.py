"""Write docs/kinds.md, the list of what can be imported, from the command line's.

python scripts/kinds_page.py [FILE]
"""

import argparse
from pathlib import Path

from rhoselect.cli.kinds import SOURCES

HEAD = """# Kinds of sources

For users: what `rhoctl data import KIND SRC DST` reads, and what SRC must hold. What becomes of it:
[data.md](data.md). `python scripts/kinds_page.py` writes this page.

| kind | source |
|---|---|
"""


def page() -> str:
    """The text of docs/kinds.md."""
    return HEAD + "".join(f"| `{kind}` | {source} |\n" for kind, source in SOURCES.items())


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "docs" / "kinds.md"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=default)
    parser.parse_args().out.write_text(page(), "utf-8")
