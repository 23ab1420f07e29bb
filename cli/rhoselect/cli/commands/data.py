"""``rhoctl data``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.commands.spool import spool
from rhoselect.cli.import_options import columns_in, duplicates_in, pairs_in, relevance_in, shape_in
from rhoselect.cli.kinds import KINDS, SOURCES
from rhoselect.errors import ConfigError, listed

if TYPE_CHECKING:
    from rhoselect.data import ArrowDataset, Encoding, Manifest

app = typer.Typer(rich_markup_mode=None, help="Import and show data sets.")
app.command()(spool)


@app.command("import")
def import_(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
    src: Annotated[str, typer.Argument(help="Source; 'auto' finds fashion-mnist by itself.")],
    dst: Annotated[Path, typer.Argument(help="Folder to make.")],
    map_labels: Annotated[
        bool,
        typer.Option("--map-labels", help="Number the labels that occur anew, from 0."),
    ] = False,
    label_noise: Annotated[
        float,
        typer.Option(help="Share of the labels of train and holdout that become another class."),
    ] = 0.0,
    noise_seed: Annotated[int, typer.Option(help="Seed of noise, holdout and mix.")] = 0,
    noise_pairs: Annotated[
        str,
        typer.Option(
            help="Noise only between confusable classes: FROM:TO,…, or 'auto' for the classes known"
            " of the kind."
        ),
    ] = "",
    test: Annotated[
        float, typer.Option(help="Share of train moved to a test split, if the source has none.")
    ] = 0.0,
    holdout: Annotated[
        float, typer.Option(help="Share of train moved to a holdout split, for 'il fit'.")
    ] = 0.0,
    holdout_noise: Annotated[
        float | None,
        typer.Option(help="Label noise of the holdout, if it differs from train; 0: clean."),
    ] = None,
    relevance: Annotated[
        str | None,
        typer.Option(help="K:SHARE keeps K random classes in full, and SHARE of each other class."),
    ] = None,
    relevance_splits: Annotated[
        str, typer.Option(help="Splits to which --relevance applies.")
    ] = "train,holdout,test",
    ambiguous: Annotated[
        float,
        typer.Option(help="Append means of two points to train and holdout, this share of each."),
    ] = 0.0,
    duplicates: Annotated[
        str, typer.Option(help="K: each point of train K times; K:SHARE: a share of them.")
    ] = "1",
    shape: Annotated[
        str | None,
        typer.Option(
            help="Shape C,H,W of one input: of flat ones in tables and arrays, and where the"
            " channels could be first or last."
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Store images as 'jpeg' or 'png' files, which are decoded when read; files of that"
            " kind keep their bytes."
        ),
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Resize image files to squares with this many pixels a side.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Token ids a text, cut or padded with 0.")] = 64,
    vocabulary: Annotated[int, typer.Option(help="Words are hashed to ids below this.")] = 8192,
    columns: Annotated[
        str | None,
        typer.Option(
            help="INPUTS,LABEL of a table, if not the usual ones; several INPUTS are numbers, one"
            " feature each. LABEL alone makes every other column a feature."
        ),
    ] = None,
) -> None:
    """Turn a source into a folder of Arrow shards with a manifest. Kinds: rhoctl data kinds.

    Examples:

      rhoctl data import fashion-mnist auto data/fm --label-noise 0.1 --holdout 0.5

      rhoctl data import cifar-10 cifar-10-batches-bin data/c10 --label-noise 0.5 --noise-pairs auto

      rhoctl data import cifar-100 cifar-100-binary data/c100 --relevance 20:0.0625 --holdout 0.5

      rhoctl data import image-folder photos/ data/photos --resize 64 --encoding jpeg

      rhoctl data import csv reviews.csv data/reviews --columns text,label --test 0.2 --holdout 0.3
    """
    options: dict[str, Any] = {
        "noise_pairs": pairs_in(noise_pairs),
        "relevance": relevance_in(relevance),
        "shape": shape_in(shape),
        "columns": columns_in(columns),
        **duplicates_in(duplicates),
    }
    from rhoselect.importers import import_dataset

    dataset = import_dataset(
        kind,
        src,
        dst,
        map_labels=map_labels,
        label_noise=label_noise,
        noise_seed=noise_seed,
        test=test,
        holdout=holdout,
        holdout_noise=holdout_noise,
        relevance_splits=tuple(relevance_splits.split(",")),
        ambiguous=ambiguous,
        encoding=cast("Encoding | None", encoding),  # which it checks
        resize=resize,
        tokens=tokens,
        vocabulary=vocabulary,
        **options,
    )
    _show(dataset, str(dst))


@app.command()
def kinds() -> None:
    """List the kinds of sources, and what each must hold."""
    for kind, source in SOURCES.items():
        print(f"{kind:16} {source.replace('`', '')}")


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="Folder of a data set, or its URI.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every hash.")] = False,
    points: Annotated[
        str, typer.Option(help="Indices such as 3,17: show where these points came from.")
    ] = "",
) -> None:
    """Show a data set's splits, classes, noise and fingerprint.

    Examples:

      rhoctl data info data/fm --verify

      rhoctl data info data/photos --points 3,17

      rhoctl data info 's3://bucket/fm?region=eu-central-1'
    """
    settings = configuration.parse({"data": {"path": path}}).data
    from rhoselect.data import open_arrow

    dataset = open_arrow(settings)
    if verify:
        dataset.verify()
    lines = [f"point {index:<6} {_point(dataset, index)}" for index in _indices(dataset, points)]
    _show(dataset, path.partition("?")[0], lines)


def _show(dataset: ArrowDataset, path: str, more: Sequence[str] = ()) -> None:
    manifest = dataset.manifest
    splits = ", ".join(f"{name} {stop - start}" for name, (start, stop) in dataset.splits.items())
    lines = {
        "folder": path,
        "source": manifest.source,
        "points": splits,
        "inputs": f"{manifest.inputs.kind} {list(dataset.input_shape)}"
        + (f", {manifest.inputs.encoding}" if manifest.inputs.encoding else "")
        + (f", vocabulary {manifest.vocabulary}" if manifest.vocabulary else ""),
        **({"columns": _used(manifest.columns)} if manifest.columns else {}),
        "classes": f"{dataset.classes}"
        + (f": {listed(names)}" if (names := dataset.class_names) else ""),
        "label noise": _noise(manifest),
        "mix": _mix(manifest),
        "shards": len(manifest.shards),
        "fingerprint": dataset.fingerprint,
    }
    console = Console(highlight=False, markup=False, soft_wrap=True)
    alone = ["one class alone, from which nothing can be learnt: runs and fits refuse it"]
    notes = [*manifest.notes, *(alone if dataset.classes == 1 else [])]
    for name, value in [*lines.items(), *(("note", note) for note in notes)]:
        console.print(f"{name:12} {value}")
    for line in more:
        console.print(line)


def _indices(dataset: ArrowDataset, text: str) -> list[int]:
    rows = dataset.manifest.rows
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() and int(word) < rows for word in words):
        raise ConfigError(
            f"--points: got {text!r}, allowed indices from 0 to {rows - 1}, as in 3,17"
        )
    return [int(word) for word in words]


def _point(dataset: ArrowDataset, index: int) -> str:
    """A point's split, label and origin in words."""
    split = next(name for name, (start, stop) in dataset.splits.items() if start <= index < stop)
    points, at = dataset.split(split), np.array([index])
    label, names = int(points.labels(at)[0]), dataset.class_names
    named = f"{label} ({names[label]})" if names else f"{label}"
    [source], [row] = points.origins(at)
    if source is None:
        origin = "made by the import" if points.ambiguous(at)[0] else "origin not known"
    else:
        origin = f"from {source}" if row is np.ma.masked else f"from {source}, row {row}"
    return f"{split}, label {named}, {origin}"


def _used(columns: Sequence[str]) -> str:
    return f"{listed(columns[:-1])}; label {columns[-1]}"


def _noise(manifest: Manifest) -> str:
    parts = [f"{manifest.label_noise}"]
    if manifest.noise_pairs:
        parts.append("between " + listed(f"{a} to {b}" for a, b in manifest.noise_pairs))
    if manifest.holdout_noise is not None:
        parts.append(f"holdout {manifest.holdout_noise}")
    return ", ".join(parts) + f" (seed {manifest.noise_seed})"


def _mix(manifest: Manifest) -> str:
    parts = []
    if manifest.relevant_classes is not None:
        parts.append(f"classes {listed(manifest.relevant_classes)} in full")
    for split, (start, stop) in manifest.ambiguous.items():
        parts.append(f"{stop - start} ambiguous points in {split}")
    if (copies := manifest.duplicates) is not None:
        parts.append(f"{copies.copied} of {copies.points} points {copies.times} times")
    return "; ".join(parts) or "as in the source"
