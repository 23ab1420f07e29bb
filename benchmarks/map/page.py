"""The map as text: a page of its own, and passages of other pages."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cells import ARMS, LONGER, RHO, TARGETS, UNIFORM
from table import Entry, Gain, Row

from rhoselect.report.tables import markdown_table

WIDTH = 130
"""Of lines in pages."""
FULL = {True: 2.0, False: 0.2}
"""A great gain: points of an accuracy; bits per byte."""
TITLES = {target.name: target.title for target in TARGETS}
HEADS = (
    *("cell", "steps", "rates", "uniform", "uniform, equal device-seconds", "RHO-LOSS"),
    *("at equal steps", "at equal device-seconds"),
)
INTRO = """# Where selection pays

![the map](map.png)

`python benchmarks/map`

A cell is a network with its data, a share of wrong labels, copies of each point, and a budget. In
all cells RHO-LOSS has one form: `reducible_loss`, the best of every window by float32 scores of the
current weights, irreducible losses of a small model of the target's kind, chosen beforehand on
other seeds ([which](il.md#the-form-of-the-map)). Rates of all arms fall to 0 along a cosine and are
the best of three, tried on one seed and judged on points that no trial learns; finals are test
figures of the last weights. **At equal steps** uniform batches take as many steps: scoring and
irreducible losses are free. **At equal device-seconds** one device pays for all: uniform batches
take the steps that fit into RHO-LOSS's seconds, those of scoring and of the whole fit of
irreducible losses included, and learn from the holdout, too. A win or a loss: the 95% interval
over seeds excludes 0.

| network | data | batches | steps | seeds | irreducible losses of |
|---|---|---|---|---|---|
| MLP 2 x 512 | Fashion-MNIST, half held out | 32 of 320 | 1,000, 3,000 | 5 | an MLP of width 256 |
| ResNet-18 of width 8 | the same | 32 of 160 | 300, 900 | 3 | the small CNN |
| GPT, 1.1 M | Debian's prose, generated text | 16 of 64 | 500, 1,500 | 3 | a GPT of width 64 |
| MiniLM with LoRA | sections of Debian's packages | 16 of 64 | 200, 600 | 3 | a sum of words |

Rates are tuned where points come once: for the MLP at each budget, else at the short one. The other
cells take them over.
"""


def cell_name(row: Row) -> str:
    """In words: "MLP, 10% wrong labels, points five times, short"."""
    first = row.first
    noise = "" if first["noise"] is None else f", {first['noise']:.0%} wrong labels"
    copies = ", points five times" if first["copies"] == 5 else ""
    return f"{TITLES.get(first['target'], first['target'])}{noise}{copies}, {first['budget']}"


def page(rows: Sequence[Row], costs: Mapping[str, Any]) -> str:
    """docs/results/map.md."""
    ran = [row for row in rows if row.steps or row.seconds]
    missing = [cell_name(row) for row in rows if row not in ran]
    lines = [
        INTRO,
        passages(rows)["README.md", "headline"],
        "",
        markdown_table(HEADS, [cells_of(row) for row in ran]),
        "± is a standard deviation over seeds, for a difference its standard error. The steps are"
        " RHO-LOSS's, then those of uniform batches at equal device-seconds.",
        "",
        f"Not run: {'; '.join(missing) or 'none'}.",
        "",
        "## Device-seconds",
        "",
        "Processor time on one core, which other work changes little. Runs may use other cores.",
        "",
        markdown_table(
            ("network", "uniform step, ms", "RHO-LOSS step, ms", "irreducible losses, s", "on"),
            [costs_of(name, found) for name, found in costs.items()],
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def costs_of(name: str, found: Mapping[str, Any]) -> list[str]:
    machine = found["machine"]
    on = f"{machine['cpu']}, torch {machine['torch']}"
    steps = (f"{1e3 * found[key]:.3g}" for key in ("uniform_s", "selection_s"))
    return [TITLES.get(name, name), *steps, f"{found['il_s']:.3g}", on]


def cells_of(row: Row) -> list[str]:
    """The cells of a row of the table."""
    rho, longer = row.arms[RHO], row.arms[LONGER]
    return [
        cell_name(row),
        f"{rho['steps'] or '-'}, {longer['steps'] or '-'}",
        ", ".join(f"{lr:.1g}" if (lr := row.arms[arm]["lr"]) else "-" for arm in ARMS),
        *(final(row, row.arms[arm]) for arm in (UNIFORM, LONGER, RHO)),
        gained(row, row.steps),
        gained(row, row.seconds),
    ]


def final(row: Row, entry: Entry) -> str:
    """Mean and deviation of an arm's finals."""
    if not entry["final"]:
        return "not run"
    values = entry["final"]
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)) ** 0.5
    if row.metric.is_share:
        return f"{mean:.2%} ± {spread:.2%}"
    return f"{mean:.3f} ± {spread:.3f}"


def gained(row: Row, gain: Gain | None) -> str:
    """A gain as "wins, +1.20 ± 0.05"."""
    if gain is None:
        return "not run"
    digits = 2 if row.metric.is_share else 3
    error = f" ± {gain.error:.{digits}f}" if gain.pairs > 1 else ""
    return f"{gain.word}, {gain.mean:+.{digits}f}{error}"


Of = Callable[[Row], Gain | None]
LEDGERS: tuple[tuple[str, Of], ...] = (
    ("At equal steps", lambda row: row.steps),
    ("At equal device-seconds", lambda row: row.seconds),
)


def sentence(rows: Sequence[Row], ledger: str, of: Of) -> str:
    """How many cells of each network RHO-LOSS wins, draws and loses, and by how much."""
    told, missing = [], []
    for target in dict.fromkeys(row.first["target"] for row in rows):
        ours = [row for row in rows if row.first["target"] == target]
        found = [(row, gain) for row in ours if (gain := of(row))]
        words = [counted(found, word) for word in ("wins", "draws", "loses", "one seed")]
        name, some = TITLES.get(target, target), ", ".join(word for word in words if word)
        if some:
            count = len(ours) if len(found) == len(ours) else f"{len(found)} of {len(ours)}"
            told.append(f"{name} ({count} cells): {some}")
        else:
            missing.append(name)
    told += [f"not run: {', '.join(missing)}"] if missing else []
    return f"**{ledger}**, {'; '.join(told)}."


def counted(found: Sequence[tuple[Row, Gain]], word: str) -> str:
    """In how many cells, and between which gains: "wins 6 (+0.3 to +2.5 points)"."""
    ours = [(row, gain.mean) for row, gain in found if gain.word == word]
    if not ours:
        return ""
    row, means = ours[0][0], [mean for _, mean in ours]
    digits, unit = (1, "points") if row.metric.is_share else (2, row.metric.label)
    ends = dict.fromkeys(f"{mean:+.{digits}f}" for mean in (min(means), max(means)))
    told = f"{len(ours)} of one seed" if word == "one seed" else f"{word} {len(ours)}"
    return f"{told} ({' to '.join(ends)} {unit})"


def passages(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """By page and name, what other pages have of the map."""
    told = (
        textwrap.fill(f"- {sentence(rows, *ledger)}", WIDTH, subsequent_indent="  ")
        for ledger in LEDGERS
    )
    lost = [row for row in rows if row.seconds and row.seconds.word == "loses"]
    worst = "\n".join(map(loss, sorted(lost, key=share_lost)[:3]))
    return {
        ("README.md", "headline"): "\n".join(told),
        ("docs/when-not.md", "losses"): worst or "None of those that ran.",
    }


def share_lost(row: Row) -> float:
    """The gain at equal device-seconds as a share of a great one."""
    assert row.seconds is not None
    return row.seconds.mean / FULL[row.metric.is_share]


def loss(row: Row) -> str:
    """A line on a cell that loses at equal device-seconds."""
    unit = "points" if row.metric.is_share else row.metric.label
    return f"- {cell_name(row)}: {gained(row, row.seconds).removeprefix('loses, ')} {unit}"


def between(text: str, name: str, passage: str) -> str:
    """A page with the passage between its comments ``map: name`` and ``map: end`` replaced."""
    begin, end = f"<!-- map: {name} -->\n", "\n<!-- map: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    assert found and closed, f"a page without its passage {name}"
    return f"{before}{begin}{passage}{end}{after}"
