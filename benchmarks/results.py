"""Tables and plots of the committed figures: docs/results/*.json to tables.md and PNG files.

A benchmark taken in several runs has a file for each: NAME_WHICH.json.

python benchmarks/results.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from choices_page import choices_lines
from rhoselect.report.tables import markdown_table

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results"
Rows = list[dict[str, Any]]
TABLES: dict[str, tuple[str, ...]] = {
    "scaling": (
        *("train_ms", "mode", "workers", "step_ms", "bound_ms", "ratio", "kept_fraction"),
        "overhead_ms",
    ),
    "time_to_accuracy": (
        *("part", "model", "noise", "arm", "step_ms", "speedup_steps", "speedup_wall"),
        *("speedup_wall_with_il", "ceiling", "reached"),
    ),
    "single": (
        *("model", "function", "chunk", "precision", "bare_ms", "step_ms", "share"),
        *("bare_cpu_ms", "step_cpu_ms", "cpu_share"),
    ),
    "scorer": ("model", "chunk", "precision", "bare_points_per_s", "points_per_s", "efficiency"),
    "forwards": ("model", "form", "plain_ms", "ms", "speedup", "ranks", "first_s", "why_not"),
    "queue": (
        *("clients", "n_B", "chunk", "scored_per_s", "members_per_s", "pop_p50_ms"),
        *("pop_p99_ms", "bytes_per_point"),
    ),
    "snapshots": (
        *("megabytes", "readers", "dtype", "publish_to_loaded_ms", "memcpy_ms", "ratio"),
    ),
    "stragglers": (
        *("scenario", "mode", "reached", "seconds", "steps_to_target", "step_ms", "longest_ms"),
        *("staleness", "final", "keys"),
    ),
    "plan": ("model", "workers", "predicted_ms", "measured_ms", "error"),
    "scale": (
        *("points", "plan_us_per_window", "streamed_plan_us_per_window", "il_us_per_window"),
        *("read_us_per_window", "rss_mb"),
    ),
    "soak": ("process", "minutes", "private_mb", "mb_per_10_minutes", "files", "files_growth"),
    "chaos": ("fault", "times", "kills", "median_s", "max_s"),
    "rank_kills": ("mode", "tries", "equal", "median_s", "max_s", "too_late", "before_step_1"),
    "proxy": (
        *("noise", "seed", "scores", "flops_step", "step_ms", "final", "best", "steps_to_uniform"),
        *("flops_saved", "seconds_saved"),
    ),
    "parallel": (
        *("megabytes", "tree_ms", "gloo_ms", "noise", "layout", "step_ms", "bound_ms", "ratio"),
        *("train_ms", "score_ms", "sum_ms", "predicted_ms", "error", "behind", "chosen"),
        *("lr", "accuracies", "seconds", "with_il"),
    ),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    parts = []
    for name, columns in TABLES.items():
        files = sorted(FOLDER.glob(f"{name}.json")) + sorted(FOLDER.glob(f"{name}_*.json"))
        rows: Rows = []
        for path in files:
            figures = json.loads(path.read_text())
            parts.append(section(path.stem, figures, columns))
            rows += figures["rows"]
        if rows and name in PLOTS:
            figure = PLOTS[name](rows)
            figure.savefig(FOLDER / f"{name}.png", dpi=110, bbox_inches="tight")
            plt.close(figure)
            parts.append(f"![{name}]({name}.png)")
    (FOLDER / "tables.md").write_text("# Figures\n\n" + "\n\n".join(parts) + "\n")
    for name, lines in PAGES.items():
        page, figures = FOLDER / f"{name}.md", json.loads((FOLDER / f"{name}.json").read_text())
        own = page.read_text().partition("## Figures\n")[0]
        page.write_text(own + "## Figures\n\n" + "\n".join(lines(figures)) + "\n")


def gpu_lines(figures: Mapping[str, Any]) -> list[str]:
    """What follows the heading "Figures" in gpu.md."""
    rows = []
    for stage in figures["stages"]:
        for each in stage["figures"]:
            value = f"{each['value']} {each['unit']}".strip()
            rows.append([stage["stage"], each["name"], value, each["predicted"]])
        how = "ok" if stage["ok"] else f"not ok: {stage['error']}"
        rows.append([stage["stage"], "*the stage*", f"{how}, {stage['seconds']} s", ""])
    table = markdown_table(("stage", "figure", "measured", "predicted for one H100"), rows)
    return [*whence(figures), *figures["notes"], "", table.rstrip()]


def predict_lines(figures: Mapping[str, Any]) -> list[str]:
    """The same in predict.md."""
    rows, seeds = figures["rows"], figures["seeds"]
    gains, minutes = sum(row["gain"] > 0 for row in rows), figures["core_minutes"]
    elsewhere = [
        f"{row['noise']:.0%}: `{row['predictor']}` above {row['threshold']:.3g},"
        f" {row['errors']} wrong"
        for row in figures["chosen_elsewhere"]
    ]
    cells = []
    for row in sorted(rows, key=lambda row: (row["noise"], -row["gain"])):
        known = row["predictors"]
        shares = (known["accuracy"], row["uniform"], row["purity"])
        losses = f"{-known['low_il']:.3f}", f"{known['lead']:+.3f}", f"{known['ratio']:.3f}"
        shown = (*(f"{share:.1%}" for share in shares), f"{100 * row['gain']:+.2f}")
        cells.append([f"{row['noise']:.0%}", row["table"], *losses, *shown])
    heads = (
        "noise",
        "table",
        "mean IL",
        "lead",
        "ratio",
        "labels right",
        "uniform",
        "purity",
        "gain",
    )
    names = list(figures["predictors"][0])
    judged = [[cell(row[name]) for name in names] for row in figures["predictors"]]
    return [
        *whence(figures),
        f"{figures['steps']:,} steps, warm-up of {figures['warm']}, seeds"
        f" {', '.join(map(str, seeds))}; {minutes:.0f} minutes of a core."
        f" A gain is a mean of {len(seeds)} pairs, its standard error"
        f" {100 * figures['gain_error']:.2f} points. {gains} of the {len(rows)} gains are above 0.",
        "",
        markdown_table([name.replace("_", " ") for name in names], judged),
        f"Chosen at the other two levels of noise: {'; '.join(elsewhere)}.",
        "",
        markdown_table((*heads, "gain"), cells).rstrip(),
    ]


def whence(figures: Mapping[str, Any]) -> list[str]:
    """The command and the machine."""
    machine = ", ".join(f"{key} {value}" for key, value in figures["machine"].items())
    return [f"`{figures['command']}`", "", f"*{machine}*", ""]


def section(name: str, figures: Mapping[str, Any], columns: Iterable[str]) -> str:
    """A table, with what gave it."""
    rows: Rows = figures["rows"]
    names = [column for column in columns if any(column in row for row in rows)]
    lines = [f"## {name}", "", f"`{figures['command']}`", ""]
    if figures.get("emulated"):
        lines += ["On an emulated device.", ""]
    counts = {key: value for key, value in figures.items() if type(value) is int}
    if counts:
        lines += [", ".join(f"{key} {value}" for key, value in counts.items()), ""]
    cells = ([cell(row.get(name)) for name in names] for row in rows)
    lines.append(markdown_table(names, cells).rstrip())
    machine = figures["machine"]
    lines += ["", "*" + ", ".join(f"{key} {value}" for key, value in machine.items()) + "*"]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A figure as it is shown."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plot_scaling(rows: Rows) -> Any:
    """Step time against workers, beside its bound."""
    durations = sorted({row["train_ms"] for row in rows})
    workers = sorted({row["workers"] for row in rows})
    figure, axes = plt.subplots(1, len(durations), figsize=(5.5 * len(durations), 3.6))
    for axis, train_ms in zip(axes if len(durations) > 1 else [axes], durations, strict=True):
        for mode in dict.fromkeys(row["mode"] for row in rows):
            mine = [r for r in rows if r["train_ms"] == train_ms and r["mode"] == mode]
            places = [workers.index(r["workers"]) for r in mine]
            axis.plot(places, [r["step_ms"] for r in mine], "o-", label=mode)
        bounds = {r["workers"]: r["bound_ms"] for r in rows if r["train_ms"] == train_ms}
        axis.plot([bounds[each] for each in workers], "k:", label="bound at lag 0")
        axis.axhline(train_ms, color="grey", lw=1, label="training step alone")
        axis.set_xticks(range(len(workers)), [str(each) for each in workers])
        axis.set(xlabel="workers", ylabel="ms a step", title=f"{train_ms:g} ms steps (emulated)")
        axis.set_ylim(0)
        axis.legend()
    return figure


def plot_time_to_accuracy(rows: Rows) -> Any:
    """Speedups in steps and in seconds, an arm a pair of bars."""
    shown = [row for row in rows if row["speedup_steps"]]
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(shown) + 1.2))
    names = [f"{r['part']}: {r['model']}, {r['noise']:.0%} noise, {r['arm']}" for r in shown]
    for offset, key in ((0.2, "speedup_steps"), (-0.2, "speedup_wall")):
        places = [place + offset for place in range(len(shown))]
        axis.barh(places, [row[key] for row in shown], 0.38, label=key.replace("_", " "))
    axis.set_yticks(range(len(shown)), names, fontsize=8)
    axis.axvline(1, color="grey", lw=1)
    axis.set(xlabel="times sooner at uniform's best accuracy")
    axis.legend()
    return figure


PLOTS: dict[str, Callable[[Rows], Any]] = {
    "scaling": plot_scaling,
    "time_to_accuracy": plot_time_to_accuracy,
}

PAGES = {
    "gpu": gpu_lines,
    "predict": predict_lines,
    "choices": lambda figures: [*whence(figures), *choices_lines(figures)],
}

if __name__ == "__main__":
    main()
