"""Irreducible losses of data sets of Hugging Face."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import default_data_collator

from rhoselect.client import irreducible
from rhoselect.client.batch import Collate
from rhoselect.client.own_model import check_module
from rhoselect.client.user_data import LossFunction
from rhoselect.client.usual_losses import adapted, usual_output
from rhoselect.errors import DataError, listed

LABELS = ("label", "label_ids", "labels")
"""Columns that collators of transformers make labels of."""


def fit_irreducible_losses(
    model: nn.Module,
    dataset: Any,
    *,
    holdout: Any = None,
    data_collator: Collate = default_data_collator,
    losses: LossFunction | None = None,
    **fit: Any,
) -> Tensor:
    """The irreducible losses [N] of a data set for ``SelectionTrainer``, which has the same columns
    of it, collator and losses: of a ``datasets.Dataset`` those columns that ``model`` takes.

    ``fit`` are other arguments of ``rhoselect.client.fit_irreducible_losses``: how it is fitted.
    Raises UserError.
    """
    check_module(model)
    return irreducible.fit_irreducible_losses(
        model,
        _taken(model, dataset),
        holdout=_taken(model, holdout),
        collate_fn=data_collator,
        losses=losses or usual_output,
        **fit,
    )


def _taken(model: nn.Module, dataset: Any) -> Any:
    """The columns of a ``datasets.Dataset`` that ``model`` takes; other data as they are. Raises
    DataError if it takes none."""
    if not isinstance(getattr(dataset, "column_names", None), list):
        return dataset
    takes = inspect.signature(adapted(model).forward).parameters
    columns = [name for name in dataset.column_names if name in takes or name in LABELS]
    if not set(columns) - set(LABELS):
        raise DataError(
            f"data: got columns {listed(dataset.column_names)}, allowed some that"
            f" {type(adapted(model)).__name__} takes, such as {listed(takes, 3)}; map the"
            " tokenizer over the data set"
        )
    return dataset.select_columns(columns)
