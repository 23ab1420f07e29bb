"""Fails if a part of the package outgrew its bounds: rooms, files, functions, constructors.

    python scripts/check_sizes.py

A *room* is a package or module directly below ``rhoselect``. Generated code does not count.
Of the functions of ``cli/commands`` the body alone counts, as their signature is the command's
options. Records (dataclasses, configuration sections) have no ``__init__`` to count.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MOST_ROOM_SHARE = 0.12
MOST_FILE_LINES = 250
MOST_FUNCTION_LINES = 40
MOST_PARAMETERS = 7

ROOT = Path(__file__).parent.parent
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """The hand-written modules of the package."""
    found = ROOT.glob("*/rhoselect/**/*.py")
    return sorted(path for path in found if "_pb2" not in path.name)


def room_of(path: Path) -> str:
    """The room of a module, such as ``selector``."""
    return path.relative_to(ROOT).parts[2].removesuffix(".py")


def first_line(path: Path, node: Function) -> int:
    """The line from which a function counts."""
    if "commands" not in path.parts:
        return node.lineno
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return body[0].lineno


def in_functions(path: Path, tree: ast.Module) -> Iterator[str]:
    """What is too long or takes too much in one module."""
    where = path.relative_to(ROOT)
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        lines = (node.end_lineno or node.lineno) - first_line(path, node) + 1
        if lines > MOST_FUNCTION_LINES:
            what = f"{node.name} has {lines} lines"
            yield f"{where}:{node.lineno}: {what}, at most {MOST_FUNCTION_LINES}"
        taken = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
        if node.name == "__init__" and taken > MOST_PARAMETERS:
            yield f"{where}:{node.lineno}: a constructor takes {taken}, at most {MOST_PARAMETERS}"


def main() -> int:
    """Print what is out of bounds; 1 if anything is."""
    complaints, rooms = [], Counter[str]()
    for path in sources():
        text = path.read_text()
        lines = text.count("\n")
        rooms[room_of(path)] += lines
        if lines > MOST_FILE_LINES:
            complaints.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {MOST_FILE_LINES}")
        complaints += in_functions(path, ast.parse(text))
    bound = MOST_ROOM_SHARE * rooms.total()
    complaints += [
        f"room {room}: {lines} lines, at most {bound:.0f} ({MOST_ROOM_SHARE:.0%} of the package)"
        for room, lines in rooms.items()
        if lines > bound
    ]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
