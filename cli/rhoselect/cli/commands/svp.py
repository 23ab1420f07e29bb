"""``rhoctl svp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.compute import keep_memory
from rhoselect.config import resolve
from rhoselect.data import open_data
from rhoselect.errors import ConfigError
from rhoselect.models.build import build_model, check_output
from rhoselect.models.replica import Numerics, Replica
from rhoselect.selection.coreset import write_entropies
from rhoselect.trainer.proxy import fit as fit_proxy

app = typer.Typer(rich_markup_mode=None, help="Core-sets by a proxy model.")


@app.callback()
def group() -> None:
    """Selection via proxy: keep, once, the points that a small model is least sure of."""


@app.command()
def fit(
    data: Annotated[
        str, typer.Option(help="Data folder or URI, or 'module:factory' of a Dataset.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
    model: Annotated[str, typer.Option(help="Model factory.")] = "rhoselect.models:small_cnn",
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="As in train (repeatable)."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train split.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Points a step.")] = 64,
) -> None:
    """Train a small model on the train split and note its predictive entropy on each point.

    A run with selection.function "svp" keeps the share svp.keep of greatest entropy.

    Examples:

      rhoctl svp fit --data data/fm --out data/fm-svp.safetensors

      rhoctl train run.toml --set selection.function=svp --set svp.table=data/fm-svp.safetensors
    """
    named = ":" in data and "://" not in data and not Path(data).exists()
    tree: dict[str, Any] = {"scorer": {"precision": "fp32"}, "model": {"factory": model}}
    tree["data"] = {"dataset" if named else "path": data}
    settings = resolve(configuration.apply(tree, sets or []))
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder, allowed a file to write")
    dataset = open_data(settings.data)
    train = dataset.split("train")
    if batch > len(train):
        raise ConfigError(f"--batch: got {batch}, allowed at most the {len(train)} of 'train'")
    networks = [
        build_model(model, settings.model.args, dataset.input_shape, dataset.classes, settings.seed)
        for _ in range(2)
    ]
    sample = train.read(train.first(2), torch.device("cpu"))
    check_output(model, networks[0], sample.inputs, dataset.classes)
    replica = Replica(networks[1], Numerics(settings.scorer.precision), torch.device("cpu"))
    console = Console()
    keep_memory()
    entropies, metadata = fit_proxy(
        networks[0],
        replica,
        replica.layout,
        train,
        settings=settings.trainer,
        batch=batch,
        epochs=epochs,
        seed=settings.seed,
        fingerprint=dataset.fingerprint,
        name=model,
        on_epoch=lambda epoch, loss: console.print(
            f"epoch {epoch}/{epochs}: mean training loss {loss:.4f} nats", highlight=False
        ),
    )
    write_entropies(out, entropies, metadata)
    console.print(
        f"{out}: {len(entropies)} predictive entropies, mean {entropies.mean():.4f} nats,"
        f" {metadata.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
