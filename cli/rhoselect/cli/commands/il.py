"""``rhoctl il``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.display import fit_display
from rhoselect.compute import keep_memory
from rhoselect.config import Config
from rhoselect.data import Dataset, open_data
from rhoselect.data.il_table import IlTable, write_table
from rhoselect.errors import ConfigError, IrreducibleLossError
from rhoselect.models.build import check_output, configured_model
from rhoselect.models.reference import ReferenceMetadata, save_reference
from rhoselect.models.replica import Numerics, Replica
from rhoselect.models.weights import load_weights
from rhoselect.trainer.irreducible import Fitter, Recipe, Watch

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
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the points to learn from.")] = 3,
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after so many passes that did not help; 0: never.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Points a step.")] = 128,
    split: Annotated[str, typer.Option(help="Split to learn from.")] = "holdout",
    overlap: Annotated[
        str, typer.Option(help="'allow' to learn from points of the train split.")
    ] = "forbid",
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-fit so many models on the train split, without a holdout."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Factory of a ready model, which is not trained.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file with the weights of --reference.")
    ] = None,
    weights_out: Annotated[
        Path | None, typer.Option(help="Safetensors file to write the model to, for il.weights.")
    ] = None,
) -> None:
    """Score the train split with a model that never saw it.

    By default a small model is trained on the holdout; its learning rate falls to 0 along a cosine
    over --epochs, and of all epochs the one with the lowest loss on the train split is kept. With
    --folds K no holdout is needed: K models each learn the train split without a fold, which they
    then score. The table serves every run and every target model on this data set.

    Examples:

      rhoctl il fit --data data/fm --out data/fm-il.parquet

      rhoctl il fit --data data/fm --out il.parquet --folds 5 --set trainer.lr=3e-4

      rhoctl il fit --data data/fm --out il.parquet --reference my_models:pretrained
    """
    _check_together(overlap, folds, reference, weights, weights_out)
    for flag, path in (("--out", out), ("--weights-out", weights_out)):
        if path is not None and path.is_dir():
            raise ConfigError(f"{flag} {path}: is a folder, allowed a file to write")
    settings = _settings(data, reference or model, sets or [])
    dataset = open_data(settings.data)
    recipe = Recipe(settings.trainer, batch, epochs, patience, settings.seed)
    steps = 0
    if reference is None:
        steps = _points_to_learn(dataset, split, overlap, folds, batch) // batch
    console = Console()
    keep_memory()
    with fit_display(console, folds or 1, epochs, steps) as watch:
        fitter = _fitter(settings, dataset, recipe, watch)
        network = fitter.model
        if reference is not None:
            if weights is not None:
                load_weights(network, weights, key="--weights")
            table = fitter.reference()
        elif folds is not None:
            table = fitter.cross_fit(folds)
        else:
            table, network = fitter.holdout(dataset.split(split), split)
    write_table(out, table)
    if weights_out is not None:
        save_reference(weights_out, network, _described(settings, table))
    console.print(
        f"{out}: {len(table.values)} irreducible losses, mean {table.values.mean():.4f} nats,"
        f" {table.metadata.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _check_together(
    overlap: str,
    folds: int | None,
    reference: str | None,
    weights: Path | None,
    weights_out: Path | None,
) -> None:
    if overlap not in ("forbid", "allow"):
        raise ConfigError(f"--overlap: got {overlap!r}, allowed 'forbid' or 'allow'")
    if folds is not None and reference is not None:
        raise ConfigError("--folds: got it with --reference, allowed one of the two")
    if folds is not None and weights_out is not None:
        raise ConfigError(
            f"--weights-out: got it with --folds {folds}, allowed with one model; drop one of the"
            " two"
        )
    if weights is not None and reference is None:
        raise ConfigError("--weights: got it alone, allowed with --reference module:factory")


def _points_to_learn(
    dataset: Dataset, split: str, overlap: str, folds: int | None, batch: int
) -> int:
    """How many points a model learns from. Raises UserError unless they are there, are enough, and
    may be learnt from."""
    train = dataset.split("train")
    if folds is not None:
        if folds > len(train):
            raise ConfigError(f"--folds: got {folds}, allowed 2 to the {len(train)} of 'train'")
        learnt, name = len(train) - -(-len(train) // folds), f"'train' without a fold of {folds}"
    else:
        holdout = dataset.split(split)
        if overlap != "allow" and max(train.start, holdout.start) < min(train.stop, holdout.stop):
            raise IrreducibleLossError(
                f"--split {split}: its points {[holdout.start, holdout.stop]} overlap the train"
                f" split {[train.start, train.stop]}; make a holdout with 'data import --holdout"
                " FRACTION', cross-fit with --folds K, or say --overlap allow"
            )
        learnt, name = len(holdout), repr(split)
    if batch > learnt:
        raise ConfigError(f"--batch: got {batch}, allowed at most the {learnt} of {name}")
    return learnt


def _fitter(settings: Config, dataset: Dataset, recipe: Recipe, watch: Watch) -> Fitter:
    """What fits and scores with the model of the settings, which is built and checked."""
    factory, shape, classes = settings.model.factory, dataset.input_shape, dataset.classes
    network, twin = (
        configured_model(settings.model, shape, classes, settings.seed) for _ in range(2)
    )
    train = dataset.split("train")
    sample = train.read(train.first(2), torch.device("cpu"))
    check_output(factory, network, sample.inputs, classes)
    precision = settings.scorer.precision
    replica = Replica(twin, Numerics(precision), torch.device("cpu"))
    return Fitter(
        network,
        replica,
        replica.layout,
        train,
        recipe,
        watch,
        dataset.fingerprint,
        factory,
        precision,
    )


def _described(settings: Config, table: IlTable) -> ReferenceMetadata:
    made, model = table.metadata, settings.model
    return ReferenceMetadata(
        model.factory, model.args, made.fingerprint, made.holdout, made.seconds, made.flops
    )


def _settings(data: str, model: str, sets: list[str]) -> Config:
    """The keys of a run that apply here; by default scores are float32 and the rate falls to 0."""
    named = ":" in data and "://" not in data and not Path(data).exists()
    source = "dataset" if named else "path"
    tree: dict[str, Any] = {
        "scorer": {"precision": "fp32"},
        "trainer": {"schedule": "cosine", "lr": 3e-3},
        "data": {source: data},
        "model": {"factory": model},
    }
    return configuration.apply(tree, sets)
