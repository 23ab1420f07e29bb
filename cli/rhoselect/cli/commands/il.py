"""``rhoctl il``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhoselect.cli.commands import Sets
from rhoselect.cli.fit_display import fit_display
from rhoselect.compute import keep_memory
from rhoselect.data.il_table import write_table
from rhoselect.errors import ConfigError
from rhoselect.trainer.fit import (
    FitOptions,
    fit_folds,
    fit_holdout,
    irreducible_config,
    save_model,
    score_reference,
)

app = typer.Typer(rich_markup_mode=None, help="Irreducible losses.")


@app.callback()
def group() -> None:
    """Irreducible losses: the losses of a model that never learnt from the points."""


@app.command()
def fit(
    data: Annotated[
        str, typer.Option(help="Data folder or URI, or 'module:factory' of a Dataset.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    model: Annotated[str, typer.Option(help="Model factory.")] = "rhoselect.models:small_cnn",
    sets: Sets = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the points to learn from.")] = 3,
    patience: Annotated[
        int,
        typer.Option(
            min=0, help="Passes without a lower loss before the fit stops; 0: never stop early."
        ),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Points a step.")] = 128,
    split: Annotated[str, typer.Option(help="Split to learn from.")] = "holdout",
    overlap: Annotated[
        str, typer.Option(help="'allow' a --split with points of the train split.")
    ] = "forbid",
    folds: Annotated[
        int | None,
        typer.Option(
            min=2, help="Number of models cross-fitted on the train split; needs no holdout."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Factory of a ready model; it is not trained.")
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
    _check_together(folds, reference, weights, weights_out)
    for flag, path in (("--out", out), ("--weights-out", weights_out)):
        if path is not None and path.is_dir():
            raise ConfigError(f"{flag} {path}: is a folder, allowed a file to write")
    keys = [f"il.overlap={overlap}"]
    if weights is not None:
        keys.append(f"model.weights={json.dumps(str(weights))}")
    config = irreducible_config(data, reference or model, [*keys, *(sets or [])])
    options = FitOptions(batch, epochs, patience)
    console = Console()
    keep_memory()
    network = None
    with fit_display(console, "mean loss of the points to score") as progress:
        if reference is not None:
            table, network = score_reference(config)
        elif folds is not None:
            table = fit_folds(config, folds, options, progress)
        else:
            table, network = fit_holdout(config, options, split, progress)
    write_table(out, table)
    if weights_out is not None and network is not None:
        save_model(weights_out, network, config, table)
    console.print(
        f"{out}: {len(table.values)} irreducible losses, mean {table.values.mean():.4f} nats,"
        f" {table.metadata.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _check_together(
    folds: int | None, reference: str | None, weights: Path | None, weights_out: Path | None
) -> None:
    """Raise ConfigError for options that exclude each other."""
    if folds is not None and reference is not None:
        raise ConfigError("--folds: got it with --reference, allowed one of the two")
    if folds is not None and weights_out is not None:
        raise ConfigError(
            f"--weights-out: got it with --folds {folds}, allowed with one model; drop one of the"
            " two"
        )
    if weights is not None and reference is None:
        raise ConfigError("--weights: got it alone, allowed with --reference module:factory")
