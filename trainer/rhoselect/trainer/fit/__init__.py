"""Small models that are trained before a run: for irreducible losses, and as a proxy.

Irreducible losses come from a model of a holdout split (``fit_holdout``), from models of the train
split without the fold that they score (``fit_folds``) or from a ready model (``score_reference``).
A proxy's entropies (``fit_proxy``) choose a core-set. Each function takes a run's configuration, of
which it uses ``data``, ``model``, ``trainer``, ``scorer.precision``, ``il`` and ``seed``. A table's
metadata tell how good its model is, and ``doubts`` whether that is too little. For a data set of
your own there is ``rhoselect.client.fit_irreducible_losses``.

Example::

    from pathlib import Path
    from rhoselect.data.il_table import write_table
    from rhoselect.trainer.fit import FitOptions, fit_holdout, irreducible_config

    config = irreducible_config("data/fm", "rhoselect.models:small_cnn", ["trainer.lr=1e-3"])
    table, model = fit_holdout(config, FitOptions(batch=64, epochs=10, patience=2))
    write_table(Path("data/fm-il.parquet"), table)
"""

from rhoselect.trainer.fit.irreducible import (
    fit_folds,
    fit_holdout,
    irreducible_config,
    save_model,
    score_reference,
)
from rhoselect.trainer.fit.proxy import fit_proxy, proxy_config
from rhoselect.trainer.fit.quality import doubts
from rhoselect.trainer.fit.training import FitOptions, FitProgress

__all__ = [
    "FitOptions",
    "FitProgress",
    "doubts",
    "fit_folds",
    "fit_holdout",
    "fit_proxy",
    "irreducible_config",
    "proxy_config",
    "save_model",
    "score_reference",
]
