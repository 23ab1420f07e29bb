"""The entry point of ``rhoctl``: a package that is not installed is one line, not a traceback."""

from __future__ import annotations

import sys

OPTIONAL = (
    *("google", "grpc", "grpc_health", "grpc_reflection", "grpc_status"),
    *("matplotlib", "ray", "redis", "rich", "typer"),
)
"""What the extra "all" installs for ``rhoctl`` and a plain ``pip install rhoselect`` does not."""


def main() -> None:
    """Run a command. Exits with 2 if it needs a package of the extra "all" that is missing."""
    try:
        from rhoselect.cli import main as cli  # imports what the extra installs

        cli.main()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in OPTIONAL:
            raise
        print(
            f"rhoctl: got no package {name!r}, which this command needs; install it with"
            " pip install 'rhoselect[all]'",
            file=sys.stderr,
        )
        sys.exit(2)
