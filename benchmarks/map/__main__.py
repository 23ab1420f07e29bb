"""The map: where RHO-LOSS pays, cell by cell: noise x copies x budget x target.

Runs what is missing, cell after cell, and writes map.json, map.md and map.png. The same command
goes on where it was interrupted, on another machine from the map.json of the first; two of them
share the cells. From the root of the repository:

    python benchmarks/map & python benchmarks/map; wait
    python benchmarks/map --target mlp --minutes 20
    python benchmarks/map --draw

map.json is a list with an entry a cell and arm; `table.entry` says what it holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    # Modules of benchmarks and of examples; they must not hide Python's own.
    sys.path += [str(HERE.parent), str(HERE.parent.parent)]
    from command import main

    main()
