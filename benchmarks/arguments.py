"""The options that every benchmark has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def parse(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """The given options. With --quick, those that are not given have the values ``quick``."""
    parser.add_argument(
        "--quick", action="store_true", help="a smoke in seconds, without Fashion-MNIST"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()
