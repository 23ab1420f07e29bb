"""Irreducible losses: recipes and variants, by their cost and by what RHO-LOSS makes of them.

Fashion-MNIST, half of it holdout, label noise; an MLP. Each arm is one `rhoctl il fit` and one
`rhoctl train`, in fresh processes, beside one uniform run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

import arguments
from curves import import_data, rhoctl
from rhoselect.data import ArrowDataset
from rhoselect.report.comparison import comparison
from rhoselect.report.origin import origin
from rhoselect.report.runs import load_run

MLP = ["--model", "rhoselect.models:mlp", "--set", "model.args.width=256"]
CONSTANT = ["--batch", "64", "--set", "trainer.schedule=constant", "--set", "trainer.lr=1e-3"]
ARMS = {
    "MLP, cosine, 3 epochs (the default)": MLP,
    "MLP, constant rate, 8 epochs": [*MLP, *CONSTANT, "--epochs", "8"],
    "MLP, constant rate, patience 1": [*MLP, *CONSTANT, "--epochs", "8", "--patience", "1"],
    "MLP of width 32, cosine": [*MLP[:2], "--set", "model.args.width=32"],
    "MLP, 2 folds": [*MLP, "--folds", "2"],
    "MLP, 5 folds": [*MLP, "--folds", "5"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options = arguments.parse(parser, steps=50, arms=["MLP, 2 folds"])
    with tempfile.TemporaryDirectory() as scratch:
        import_data(Path(scratch) / "data", options.noise, options.quick)
        rows = compare(Path(scratch), options.arms, options.steps)
    Console(width=120).print(Markdown(markdown(rows)))
    if options.json is not None:
        about = {"noise": options.noise, "steps": options.steps, "rows": rows}
        options.json.write_text(json.dumps({**origin(), **about}, indent=2) + "\n")


def compare(scratch: Path, arms: list[str], steps: int) -> list[dict[str, Any]]:
    """One row an arm."""
    data, config = scratch / "data", Path("examples/fashion-mnist.toml")
    sets = [f"data.path={data}", f"trainer.steps={steps}", "trainer.eval_every=25"]
    flags = [word for each in [*sets, "metrics.port=-1"] for word in ("--set", each)]
    uniform = scratch / "uniform"
    rhoctl("train", config, "--run-dir", uniform, *flags, "--set", "selection.function=uniform")
    rows = []
    for place, arm in enumerate(track(arms, "arms")):
        table, run = scratch / f"{place}.parquet", scratch / str(place)
        rhoctl("il", "fit", "--data", data, "--out", table, *ARMS[arm])
        rhoctl("train", config, "--run-dir", run, *flags, "--set", f"il.table={table}")
        rows.append({"arm": arm, **figures(data, table, uniform, run)})
    return rows


def figures(data: Path, table: Path, uniform: Path, run: Path) -> dict[str, Any]:
    """What an arm's table is like and what its run did."""
    train = ArrowDataset.open(str(data)).split("train")
    clean = train.clean_labels(train.indices)
    assert clean is not None
    wrong = clean != train.labels(train.indices)
    rows = pq.read_table(table)
    losses = rows["irreducible_loss"].to_numpy()
    seconds = json.loads(rows.schema.metadata[b"rhoselect"])["seconds"]
    found = comparison([load_run(uniform), load_run(run)])[1]
    return {
        "fit_seconds": seconds,
        "il_right_labels": float(losses[~wrong].mean()),
        "il_wrong_labels": float(losses[wrong].mean()),
        "steps_to_uniform_best": found["steps_to_target"],
        "best_accuracy": found["best_accuracy"],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The figures as a table."""
    names = [name for name in rows[0] if name != "arm"]
    lines = ["| IL | " + " | ".join(n.replace("_", " ") for n in names) + " |"]
    lines.append("|" + "---|" * (len(names) + 1))
    for row in rows:
        cells = ["not reached" if row[n] is None else f"{row[n]:.4g}" for n in names]
        lines.append(f"| {row['arm']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
