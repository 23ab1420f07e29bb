"""``rhoctl compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rhoselect.cli.commands import Sets
from rhoselect.errors import ConfigError, listed

if TYPE_CHECKING:
    from rhoselect.comparison.rules import Rules


def compare(
    configs: Annotated[list[Path], typer.Argument(help="TOML files of runs.")],
    budget: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="Reference seconds of each arm, such as 30,120."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="N", help="The budget as uniform steps, as 1000,3000.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Final runs of each arm.")] = 5,
    rates: Annotated[
        str, typer.Option(help="Learning rates tried, as multiples of trainer.lr.")
    ] = "0.3,1,3,10",
    validation: Annotated[
        float, typer.Option(help="Share of the train split on which rates are chosen.")
    ] = 0.1,
    cleaned: Annotated[
        str, typer.Option(help="Shares of points that label cleaning may drop.")
    ] = "0.1,0.2,0.4",
    shared_by: Annotated[
        int, typer.Option(min=1, help="Runs that pay for the irreducible losses together.")
    ] = 25,
    without: Annotated[
        str, typer.Option(help="Arms to leave out, such as uniform_wide,cleaned.")
    ] = "",
    sets: Sets = None,
    out: Annotated[Path, typer.Option(help="Folder of data, runs and results.")] = Path(
        "runs/compare"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and their minutes, run none.")
    ] = False,
) -> None:
    """Compare a run's selection with uniform batches and cheap rivals at the same budget.

    The same command goes on where it was interrupted.

    Examples:

      rhoctl compare run.toml --steps 1000,3000 --dry-run

      rhoctl compare clean.toml noisy.toml --budget 60 --out runs/map
    """
    rules = _rules(budget, steps, seeds, rates, validation, cleaned, shared_by, without)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    from rhoselect.cli.comparing import comparison_in, preview, run_all

    if dry_run:
        preview(configs, sets or [], rules, out, console)
        return
    run_all(comparison_in(configs, sets or [], rules, out, console), console)


def _rules(
    budget: str | None,
    steps: str | None,
    seeds: int,
    rates: str,
    validation: float,
    cleaned: str,
    shared_by: int,
    without: str,
) -> Rules:
    from rhoselect.comparison.arms import OPTIONAL
    from rhoselect.comparison.rules import Rules

    if (budget is None) == (steps is None):
        raise ConfigError("compare: got both or none of --budget and --steps, allowed one of them")
    left_out = tuple(part.strip() for part in without.split(",") if part.strip())
    if unknown := sorted(set(left_out) - set(OPTIONAL)):
        raise ConfigError(f"--without: got {listed(unknown)}, allowed {listed(OPTIONAL)}")
    if steps is None:
        assert budget is not None
        budgets = _numbers("--budget", budget)
    else:
        budgets = _numbers("--steps", steps)
        if any(number != int(number) for number in budgets):
            raise ConfigError(f"--steps: got {steps!r}, allowed whole numbers such as 1000,3000")
    shares = _numbers("--cleaned", cleaned)
    if any(share >= 1 for share in shares):
        raise ConfigError(f"--cleaned: got {cleaned!r}, allowed shares below 1")
    return Rules(
        budgets,
        steps is None,
        seeds,
        _numbers("--rates", rates),
        validation,
        shares,
        shared_by,
        left_out,
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or not all(0 < n < float("inf") for n in found):
        raise ConfigError(f"{option}: got {text!r}, allowed different numbers > 0 such as 1,3")
    return found
