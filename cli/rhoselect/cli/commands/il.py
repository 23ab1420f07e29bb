"""``rhoctl il``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console

from rhoselect.cli.commands import Sets
from rhoselect.cli.fits import SMALL_CNN, Device, Model, Overwrite, check_new, naming_default
from rhoselect.config import Config, load, resolve
from rhoselect.errors import ConfigError

if TYPE_CHECKING:
    from rhoselect.data.il_table import IlTable

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
    model: Model = None,
    sets: Sets = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the points to learn from.")] = 3,
    patience: Annotated[
        int,
        typer.Option(
            min=0, help="Passes without a lower loss before the fit stops; 0: never stop early."
        ),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Points a step.")] = 128,
    device: Device = "auto",
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
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Keep the losses of tokens too, for selection.tokens.")
    ] = False,
    target: Annotated[
        Path | None,
        typer.Option(help="TOML file of a run: warn if the losses are too weak for its model."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score the train split with a model that never saw it.

    By default a small model is trained on the holdout; its learning rate falls to 0 along a cosine
    over --epochs, and of all epochs the one with the lowest loss on the train split is kept. With
    --folds K no holdout is needed: K models each learn the train split without a fold, which they
    then score. The table serves every run and every target model on this data set; a run with a
    proxy does best with one of the proxy's size, which is the default here with --set scorer.proxy
    and scorer.proxy_args as in the run.

    Examples:

      rhoctl il fit --data data/fm --out data/fm-il.parquet

      rhoctl il fit --data data/fm --out il.parquet --folds 5 --target my.toml

      rhoctl il fit --data data/fm --out il.parquet --reference my_models:pretrained
    """
    _check_together(folds, reference, weights, weights_out)
    check_new({"--out": out, "--weights-out": weights_out}, overwrite)
    keys = [f"il.overlap={overlap}", f"trainer.device={device}"]
    if weights is not None:
        keys.append(f"model.weights={json.dumps(str(weights))}")
    from rhoselect.cli.fit_display import fit_display
    from rhoselect.compute import keep_memory
    from rhoselect.data.il_table import write_table
    from rhoselect.trainer import fit as fits

    run = None if target is None else load(target, [f"il.table={json.dumps(str(out))}"])
    named = reference or model
    config = fits.irreducible_config(data, named or SMALL_CNN, [*keys, *(sets or [])])
    if named is None and (proxy := config.scorer.proxy_model) is not None:
        named, config = proxy.factory, config.model_copy(update={"model": proxy})
    options = fits.FitOptions(batch, epochs, patience, tokens)
    console = Console()
    keep_memory()
    network = None
    shown = fit_display(console, "mean loss of the points to score")
    with naming_default(named), shown as progress:
        if reference is not None:
            table, network = fits.score_reference(config, options)
        elif folds is not None:
            table = fits.fit_folds(config, folds, options, progress)
        else:
            table, network = fits.fit_holdout(config, options, split, progress)
    write_table(out, table)
    if weights_out is not None and network is not None:
        fits.save_model(weights_out, network, config, table)
    for line in (*_outcome(out, table), *_for_target(run)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _outcome(out: Path, table: IlTable) -> Iterator[str]:
    """What was written, how good the model is, and why that may not be enough."""
    from rhoselect.trainer.fit import doubts

    about, mean = table.metadata, float(table.values.mean(dtype=np.float64))
    told = f"{out}: {len(table.values)} irreducible losses, mean {mean:.4f}"
    if about.accuracy is not None and about.guess_loss is not None:  # of a classifier
        told += f" nats (of a guess {about.guess_loss:.4f}), {about.accuracy:.1%} of labels right"
    yield f"{told}, {about.seconds:.1f} s"
    for doubt in doubts(mean, about.guess_loss, about.last_loss):
        yield f"warning: {doubt}"


def _for_target(run: Config | None) -> list[str]:
    """What the losses are worth to the model of a run that uses them."""
    if run is None:
        return []
    from rhoselect.inputs import open_inputs
    from rhoselect.planning.lead import lead

    found = lead(open_inputs(resolve(run)))
    return [] if found is None else [str(found)]


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
