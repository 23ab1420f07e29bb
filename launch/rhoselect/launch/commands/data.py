"""``rhoctl data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.data import KINDS, ArrowDataset, Encoding, import_dataset, open_arrow
from rhoselect.errors import ConfigError

app = typer.Typer(rich_markup_mode=None, help="Import and look at data sets.")


@app.command("import")
def import_(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
    src: Annotated[str, typer.Argument(help="Source; 'auto' finds fashion-mnist by itself.")],
    dst: Annotated[Path, typer.Argument(help="Folder to make.")],
    label_noise: Annotated[
        float, typer.Option(help="Share of train and holdout labels set to another class.")
    ] = 0.0,
    noise_seed: Annotated[int, typer.Option(help="Seed of the noise and of the holdout.")] = 0,
    holdout: Annotated[
        float, typer.Option(help="Share of train moved to a holdout split, for 'il fit'.")
    ] = 0.0,
    shape: Annotated[
        str | None, typer.Option(help="Image shape C,H,W of parquet's binary inputs.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Store images as 'jpeg' or 'png' files, decoded when read; parquet's binary inputs"
            " are such files already."
        ),
    ] = None,
) -> None:
    """Turn a source into a folder of Arrow shards with a manifest.

    Examples:

      rhoctl data import fashion-mnist auto data/fm --label-noise 0.1 --holdout 0.5

      rhoctl data import numpy points.npz data/points --holdout 0.3

      rhoctl data import parquet photos/ data/photos --encoding jpeg
    """
    dataset = import_dataset(
        kind,
        src,
        dst,
        label_noise=label_noise,
        noise_seed=noise_seed,
        holdout=holdout,
        shape=_shape(shape),
        encoding=cast("Encoding | None", encoding),  # which it checks
    )
    _show(dataset, str(dst))


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="Folder of a data set, or its URI.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every hash.")] = False,
) -> None:
    """Show a data set's splits, classes, noise and fingerprint.

    Examples:

      rhoctl data info data/fm --verify

      rhoctl data info 's3://bucket/fm?region=eu-central-1'
    """
    dataset = open_arrow(configuration.parse({"data": {"path": path}}).data)
    if verify:
        dataset.verify()
    _show(dataset, path.partition("?")[0])


def _show(dataset: ArrowDataset, path: str) -> None:
    manifest = dataset.manifest
    splits = ", ".join(f"{name} {stop - start}" for name, (start, stop) in dataset.splits.items())
    lines = {
        "folder": path,
        "source": manifest.source,
        "points": splits,
        "inputs": f"{manifest.inputs.kind} {list(dataset.input_shape)}"
        + (f", {manifest.inputs.encoding}" if manifest.inputs.encoding else ""),
        "classes": dataset.classes,
        "label noise": f"{manifest.label_noise} (seed {manifest.noise_seed})",
        "shards": len(manifest.shards),
        "fingerprint": dataset.fingerprint,
    }
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name, value in lines.items():
        console.print(f"{name:12} {value}")


def _shape(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--shape: got {text!r}, allowed integers such as 3,32,32") from None
