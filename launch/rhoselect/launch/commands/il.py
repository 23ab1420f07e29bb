"""``rhoctl il``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.compute import keep_memory
from rhoselect.config import Config
from rhoselect.data import open_data
from rhoselect.errors import ConfigError, IrreducibleLossError
from rhoselect.il import write_table
from rhoselect.models.build import check_output, configured_model
from rhoselect.scorer.forward import Replica
from rhoselect.trainer.irreducible import fit as fit_table

app = typer.Typer(rich_markup_mode=None, help="Irreducible losses.")


@app.callback()
def group() -> None:
    """Irreducible losses: what a model of holdout data cannot explain."""


@app.command()
def fit(
    data: Annotated[
        str, typer.Option(help="Data folder or URI, or 'module:factory' of a Dataset.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    model: Annotated[str, typer.Option(help="Model factory.")] = "rhoselect.models:small_cnn",
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="As in train (repeatable)."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the holdout split.")] = 10,
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after so many passes that did not help; 0: never.")
    ] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Points a step.")] = 64,
    split: Annotated[str, typer.Option(help="Split to learn from.")] = "holdout",
    overlap: Annotated[
        str, typer.Option(help="'allow' to learn from points of the train split.")
    ] = "forbid",
) -> None:
    """Train a small model on the holdout and score the train split with it.

    Of all epochs the one with the lowest loss on the train split is kept. The table serves every
    run and every target model on this data set.

    Examples:

      rhoctl il fit --data data/fm --out data/fm-il.parquet

      rhoctl il fit --data data/fm --out il.parquet --set model.args.width=8 --set trainer.lr=3e-4
    """
    settings = _settings(data, model, sets or [])
    if overlap not in ("forbid", "allow"):
        raise ConfigError(f"--overlap: got {overlap!r}, allowed 'forbid' or 'allow'")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder, allowed a file to write")
    dataset = open_data(settings.data)
    train, holdout = dataset.split("train"), dataset.split(split)
    if overlap != "allow" and max(train.start, holdout.start) < min(train.stop, holdout.stop):
        raise IrreducibleLossError(
            f"--split {split}: its points {[holdout.start, holdout.stop]} overlap the train split"
            f" {[train.start, train.stop]}; make a holdout with 'data import --holdout FRACTION' or"
            " say --overlap allow"
        )
    if batch > len(holdout):
        raise ConfigError(f"--batch: got {batch}, allowed at most the {len(holdout)} of {split!r}")
    networks = [
        configured_model(settings.model, dataset.input_shape, dataset.classes, settings.seed)
        for _ in range(2)
    ]
    sample = train.read(train.first(2), torch.device("cpu"))
    check_output(model, networks[0], sample.inputs, dataset.classes)
    replica = Replica(networks[1], settings.scorer.precision, "running", torch.device("cpu"))
    console = Console()
    keep_memory()
    table = fit_table(
        networks[0],
        replica,
        replica.layout,
        holdout,
        train,
        settings=settings.trainer,
        batch=batch,
        epochs=epochs,
        patience=patience,
        seed=settings.seed,
        metadata={
            "fingerprint": dataset.fingerprint,
            "model": model,
            "split": split,
            "precision": settings.scorer.precision,
        },
        on_epoch=lambda epoch, of, loss: console.print(
            f"epoch {epoch}/{of}: mean loss on the train split {loss:.4f} nats", highlight=False
        ),
    )
    write_table(out, table)
    console.print(
        f"{out}: {len(table.values)} irreducible losses, mean {table.values.mean():.4f} nats,"
        f" {table.metadata.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _settings(data: str, model: str, sets: list[str]) -> Config:
    """The keys of a run that apply here, with float32 scoring as their default."""
    named = ":" in data and "://" not in data and not Path(data).exists()
    source = "dataset" if named else "path"
    tree: dict[str, Any] = {"scorer": {"precision": "fp32"}}
    tree |= {"data": {source: data}, "model": {"factory": model}}
    return configuration.apply(tree, sets)
