"""``rhoctl train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.commands import MOST_WORKERS, Sets
from rhoselect.config import resolve
from rhoselect.config.reference import described
from rhoselect.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rhoselect.inputs import RunInputs


def train(
    config: Annotated[Path | None, typer.Argument(help="TOML file of the run.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=MOST_WORKERS, help="Scorer actors; 0: one process.")
    ] = 0,
    sets: Sets = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run to make.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run in --run-dir.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only, run nothing.")] = False,
) -> None:
    """Train a model on the candidates most worth learning.

    The points selected and the final weights do not depend on --workers.

    Examples:

      rhoctl train examples/fashion-mnist.toml --workers 4

      rhoctl train examples/fashion-mnist.toml --set selection.function=uniform --run-dir runs/u

      rhoctl train --resume --run-dir runs/u --workers 2

      rhoctl train --resume --run-dir runs/u --set trainer.steps=20000
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    given = None if resume else configuration.load(config, sets or [])
    path = _run_dir(run_dir, config, resume)
    from rhoselect.cli.run import check_servers, scorers_of
    from rhoselect.inputs import open_inputs
    from rhoselect.metrics import check_endpoint
    from rhoselect.trainer.rehearsal import check_start
    from rhoselect.trainer.resuming import steps_if_finished
    from rhoselect.trainer.runfolder import check_absent, check_inputs, check_resume
    from rhoselect.trainer.tracking import check_tracker

    done = steps_if_finished(path) if resume else None
    if given is None:
        settings = check_resume(path, config, sets or [])
        if done is not None and done >= settings.trainer.steps:
            more = f"--set trainer.steps={2 * done}"
            console.print(f"{path}: is finished, after {done} steps; for more: {more}")
            return
    else:
        settings = resolve(given)
        check_absent(path)
    check_tracker(settings.trainer.tracker)
    inputs = open_inputs(settings)
    if resume:
        check_inputs(path, inputs.sha256)
    workers = scorers_of(inputs, workers, console)
    check_servers(settings, workers)
    check_endpoint(settings.metrics)
    check_start(inputs, workers, only=dry_run)
    if dry_run:
        console.print(_plan(inputs, workers), end="")
        return
    summary = _train(path, inputs, workers, resume, console)
    console.print(
        f"{path}: {summary['steps']} steps in {summary['wall_seconds']:.1f} s, best"
        f" {summary['metric'].replace('_', ' ')} {summary['best_metric']:.4f}, final"
        f" {summary['final_metric']:.4f}"
    )
    if summary["exact"] is False:
        console.print(f"{path}: is not exact: {summary['inexact_because']}")


def _train(
    path: Path, inputs: RunInputs, workers: int, resume: bool, console: Console
) -> dict[str, Any]:
    """Train in a new run folder, or go on in one; returns the summary."""
    from rhoselect.cli.run import execute
    from rhoselect.report.page import write_page
    from rhoselect.trainer.driver import driving
    from rhoselect.trainer.resuming import go_on_with
    from rhoselect.trainer.runfolder import RunFolder, discard_unused, writing

    new = None if resume else RunFolder.create(path, inputs.config, inputs.sha256)
    with driving(path):
        if new is None:
            go_on_with(path, inputs.config)
        folder = new or RunFolder.resume(path)
        try:
            summary = execute(inputs, folder, workers, console, path.name)
        except UserError:  # of an actor, which saw what this process could not
            if new is not None:
                discard_unused(path)
            raise
        with writing(folder):
            write_page(path)
    return summary


def _run_dir(run_dir: Path | None, config: Path | None, resume: bool) -> Path:
    if run_dir is not None:
        return run_dir
    if resume:
        raise ConfigError("--resume: needs --run-dir DIR, the folder of the run to go on with")
    from rhoselect.trainer.runfolder import default_run_dir

    return default_run_dir(config.stem if config is not None else "run")


def _plan(inputs: RunInputs, workers: int) -> str:
    """The resolved configuration and what it amounts to, as TOML with the meaning of each key."""
    plan, settings = inputs.plan, inputs.config
    function = inputs.scoring.function
    return (
        f"# {plan.n} points, {plan.n // plan.n_B} windows of {plan.n_B} an epoch,"
        f" {plan.chunks} chunks of {plan.chunk} a window\n"
        f"# {settings.trainer.steps} steps = {settings.trainer.steps * plan.n_B / plan.n:.2f}"
        f" epochs of candidates; {workers} workers; scoring forward:"
        f" {'yes' if function.needs.forward else 'no'}\n"
        f"{described(settings)}"
    )
