"""``rhoctl svp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhoselect.cli.commands import Sets
from rhoselect.cli.fits import SMALL_CNN, Device, Model, Overwrite, check_new, naming_default

app = typer.Typer(rich_markup_mode=None, help="Core-sets by a proxy model.")


@app.callback()
def group() -> None:
    """Selection via proxy: keep only the points that a small model is least sure of."""


@app.command()
def fit(
    data: Annotated[
        str, typer.Option(help="Data folder or URI, or 'module:factory' of a Dataset.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
    model: Model = None,
    sets: Sets = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train split.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Points a step.")] = 64,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train a small model on the train split and write its predictive entropy on each point.

    A run with selection.function "svp" keeps the share svp.keep of greatest entropy.

    Examples:

      rhoctl svp fit --data data/fm --out data/fm-svp.safetensors

      rhoctl train run.toml --set selection.function=svp --set svp.table=data/fm-svp.safetensors
    """
    check_new({"--out": out}, overwrite)
    from rhoselect.cli.fit_display import fit_display
    from rhoselect.compute import keep_memory
    from rhoselect.selection.coreset import write_entropies
    from rhoselect.trainer.fit import FitOptions, fit_proxy, proxy_config

    keys = [f"trainer.device={device}", *(sets or [])]
    config = proxy_config(data, model or SMALL_CNN, keys)
    console = Console()
    keep_memory()
    with naming_default(model), fit_display(console, "mean training loss") as progress:
        entropies, metadata = fit_proxy(config, FitOptions(batch, epochs), progress)
    write_entropies(out, entropies, metadata)
    console.print(
        f"{out}: {len(entropies)} predictive entropies, mean {entropies.mean():.4f} nats,"
        f" {metadata.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
