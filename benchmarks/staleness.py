"""What stale weights cost, and what the second stage gives back.

Runs the demo's configuration (make train makes its data) for uniform selection and for RHO-LOSS
scored with weights 0, 1 and 4 steps old, with and without the second stage (a shortlist of 5 n_b at
temperature 1, re-scored afresh), each with several seeds, all in this process (--workers 0: the
number of workers changes nothing, and steps are counted, not seconds). Prints medians over the
seeds: the steps at which two accuracies are first measured, and those at which the mean of three
neighbouring evaluations reaches the best such mean of the same seed's uniform run.

    python benchmarks/staleness.py --json docs/results/staleness.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

import arguments
from cases import MODELS
from curves import make_ground
from rhoselect.cli import main as rhoctl
from rhoselect.report.comparison import comparison
from rhoselect.report.origin import origin
from rhoselect.report.runs import load_run

TARGETS = (0.85, 0.86)
PROTOCOL = """\
The demo's configuration: Fashion-MNIST with 10% wrong labels, MLP 2 x 512, 32 of 320 points, a
constant rate of 1e-3. Medians over seeds. Steps are counted, not seconds: scoring and irreducible
losses are free."""
Figures = dict[str, Any]
ARMS = {
    "uniform": ["selection.function=uniform"],
    "lag 0 (Algorithm 1)": ["selection.lag=0"],
    "lag 1, top n_b": ["selection.lag=1", "selection.shortlist=1"],
    "lag 1, shortlist 5 n_b": ["selection.lag=1", "selection.shortlist=5"],
    "lag 4, top n_b": ["selection.lag=4", "selection.shortlist=1"],
    "lag 4, shortlist 5 n_b": ["selection.lag=4", "selection.shortlist=5"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("examples/fashion-mnist.toml"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = arguments.parse(parser, steps=100, seeds=[0])
    figures: dict[str, list[Figures]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        sets = [f"trainer.steps={options.steps}", "metrics.port=-1"]
        if options.quick:
            ground = make_ground(Path(scratch), 0.1, *MODELS["tiny"]["il"], quick=True)
            sets += [f"{name}={value}" for name, value in ground.settings.items()]
        # Seeds in the outer loop: the arms of a seed are neighbours in time.
        for seed in track(options.seeds, "seeds"):
            folder = Path(scratch) / f"seed-{seed}"
            for arm, found in run_arms(folder, options.config, [*sets, f"seed={seed}"]).items():
                figures[arm].append(found)
    rows = [row(arm, figures[arm]) for arm in ARMS]
    Console(width=120).print(Markdown(markdown(rows)))
    if options.json is None:
        return
    described = {**origin(), "steps": options.steps, "seeds": options.seeds, "rows": rows}
    options.json.write_text(json.dumps(described, indent=2) + "\n")
    title, origins = "# What stale weights cost", f"```json\n{about(described)}\n```"
    page = "\n\n".join((title, PROTOCOL, markdown(rows), origins))
    options.json.with_suffix(".md").write_text(page + "\n")


def run_arms(folder: Path, config: Path, sets: list[str]) -> dict[str, Figures]:
    """One run of every arm; their figures."""
    runs = []
    for place, own in enumerate(ARMS.values()):
        run = folder / str(place)
        flags = [word for value in [*sets, *own] for word in ("--set", value)]
        with redirect_stdout(None):
            code = rhoctl.run(["train", str(config), "--run-dir", str(run), *flags])
        if code:
            raise SystemExit(code)  # the reason is on standard error
        runs.append(load_run(run))
    return {
        arm: {
            **{f"steps_to_{target}": run.summary["steps_to"][str(target)] for target in TARGETS},
            "steps_to_uniform_best": each["steps_to_target"],
            "best_accuracy": each["best_accuracy"],
            "corrupted_share": each["corrupted_share"],
        }
        for arm, run, each in zip(ARMS, runs, comparison(runs), strict=True)
    }


def row(arm: str, figures: list[Figures]) -> dict[str, Any]:
    """An arm's medians over its seeds (None: not reached) and every seed's figures."""
    medians = {name: median([each[name] for each in figures]) for name in figures[0]}
    return {"arm": arm, **medians, "by_seed": figures}


def median(values: list[float | None]) -> float | None:
    """The median, where "not reached" counts as later than any step."""
    middle = statistics.median_high([math.inf if v is None else v for v in values])
    return None if middle == math.inf else middle


def markdown(rows: list[dict[str, Any]]) -> str:
    """The medians as a table."""
    names = [name for name in rows[0] if name not in ("arm", "by_seed")]
    lines = [" | ".join(["", "weights, stages", *(n.replace("_", " ") for n in names), ""])]
    lines.append("|" + "---|" * (len(names) + 1))
    for each in rows:
        cells = ["not reached" if each[n] is None else f"{each[n]:.4g}" for n in names]
        lines.append(" | ".join(["", each["arm"], *cells, ""]))
    return "\n".join(line.strip() for line in lines)


def about(described: dict[str, Any]) -> str:
    """Where the figures come from."""
    return json.dumps({k: v for k, v in described.items() if k != "rows"}, indent=2)


if __name__ == "__main__":
    main()
