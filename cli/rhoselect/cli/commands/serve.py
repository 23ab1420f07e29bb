"""``rhoctl serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhoselect import config as configuration
from rhoselect.cli.commands import MOST_WORKERS, Sets
from rhoselect.errors import ConfigError


def serve(
    config: Annotated[Path | None, typer.Argument(help="TOML file of the run.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=MOST_WORKERS, help="Scorer actors; 0: this process.")
    ] = 0,
    sets: Sets = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run to make.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Serve --run-dir again.")] = False,
) -> None:
    """Select for your own training loop, which uses rhoselect.client, until interrupted.

    The same points as 'rhoctl train' selects, for any --workers. See docs/service.md.

    Examples:

      rhoctl serve my.toml --workers 4 --set service.address=127.0.0.1:50051

      rhoctl serve --resume --run-dir runs/served

      rhoctl serve my.toml --set service.address=0.0.0.0:50051 --set service.token_file=token
        --set service.tls_cert=cert.pem --set service.tls_key=key.pem
    """
    if resume and run_dir is None:
        raise ConfigError("--resume: needs --run-dir DIR, the folder to serve again")
    if not resume:
        configuration.load(config, sets or [])  # a mistake in it is said before the imports
    from rhoselect.cli.serving import serve_run
    from rhoselect.trainer.runfolder import default_run_dir

    serve_run(run_dir or default_run_dir("serve"), config, workers, sets or [], resume)
