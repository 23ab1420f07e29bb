"""Runs a comparison for ``rhoctl compare``, or says what it would run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from rhoselect.cli.run import execute
from rhoselect.comparison import document, reference, results
from rhoselect.comparison.protocol import Comparison
from rhoselect.comparison.rules import Rules, settings_of
from rhoselect.config import Config
from rhoselect.errors import RunStopped
from rhoselect.grids import runner
from rhoselect.inputs import RunInputs
from rhoselect.report.tables import terminal_table
from rhoselect.trainer.runfolder import RunFolder


def comparison_in(
    files: Sequence[Path], sets: Sequence[str], rules: Rules, out: Path, console: Console
) -> Comparison:
    """The comparison in the folder ``out``, checked. Raises UserError; writes nothing."""

    def run(inputs: RunInputs, folder: RunFolder, workers: int, title: str) -> None:
        execute(inputs, folder, workers, console, title)

    def train(runs: Mapping[str, Config]) -> None:
        runner.train_all(runs, out / "runs", run, 0, console)

    return Comparison(settings_of(files, sets, rules, out), rules, out, train)


def preview(
    files: Sequence[Path], sets: Sequence[str], rules: Rules, out: Path, console: Console
) -> None:
    """Print all runs and how long those take that are not finished. The seconds of a step are
    measured first, in a folder that is removed, unless ``out`` has them."""
    comparison = comparison_in(files, sets, rules, out, console)
    if all(reference.path_of(out, file.stem).exists() for file in files):
        cases = comparison.cases()
    else:
        quiet = Console(quiet=True)
        with tempfile.TemporaryDirectory(prefix="rhoselect-compare-") as folder:
            cases = comparison_in(files, sets, rules, Path(folder), quiet).cases()
    count, seconds = 0, 0.0
    for case in cases:
        for name, reason in case.left_out.items():
            console.print(f"{case.name}: without {name}: {reason}")
        for name, lasts_s in comparison.planned(case).items():
            done = comparison.is_finished(name)
            console.print(f"{name}: {'finished' if done else f'{lasts_s:.3g} s'}")
            count, seconds = count + 1, seconds + (0.0 if done else lasts_s)
    console.print(f"{count} runs, {seconds / 60:.1f} minutes of steps to go")


def run_all(comparison: Comparison, console: Console) -> None:
    """Train what is not finished, then write the results. Raises RunStopped, which says how to go
    on."""
    comparison.runs.mkdir(parents=True, exist_ok=True)
    try:
        _run_all(comparison, console)
    except RunStopped as stopped:
        stopped.args = (f"{comparison.out}: stopped; the same command goes on from here",)
        raise


def _run_all(comparison: Comparison, console: Console) -> None:
    cases, rows, verdicts, left_out = comparison.cases(), [], [], []
    for case in cases:
        left_out += [f"{case.name}: without {n}: {why}" for n, why in case.left_out.items()]
        chosen = {arm.name: comparison.choose(case, arm) for arm in case.arms}
        finals = comparison.finish(case, chosen)
        rows += results.rows_of(case, chosen, finals)
        verdicts.append(results.verdict(case, finals, comparison.rules.charged_runs))
        document.write(comparison.out, rows, verdicts, left_out)  # of the cases so far
    console.width = max(console.width, 170)
    console.print(terminal_table("Equal budgets", *document.cells_of(rows)))
    console.print("\n".join([*left_out, *verdicts]))
    console.print(f"{comparison.out}: table.md, results.json, figure.png")
