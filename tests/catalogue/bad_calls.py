"""Bad arguments of what is called from Python, each of which raises one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from rhoselect.client import SelectionBatch, SelectionClient, fit_irreducible_losses
from rhoselect.trainer.fit import FitOptions
from task_code import WRONG, Points

Change = dict[str, Any]
ROWS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
DATA = [(row, int(row.argmax())) for row in ROWS]
OTHERS = [(row + 9, label) for row, label in DATA]
SELECTION = {"function": "loss", "n_b": 4, "n_B": 16, "chunk": 8}


@dataclass(frozen=True)
class Call:
    """``call`` is made with a path that is not there."""

    kind: str
    name: str
    call: Callable[[Path], object]
    pattern: str


def fit(name: str, pattern: str, kind: str = "irreducible losses in Python", **change: Any) -> Call:
    """``fit_irreducible_losses`` with arguments changed; "new" is the path."""

    def call(path: Path) -> object:
        options = FitOptions(**change.pop("of_options", {"batch": 8, "epochs": 1}))
        given = {"model": nn.Linear(3, 3), "data": DATA, "folds": 2, "options": options, **change}
        given = {key: path if value == "new" else value for key, value in given.items()}
        return fit_irreducible_losses(given.pop("model"), given.pop("data"), **given)

    return Call(kind, name, call, pattern)


def client(name: str, pattern: str, **change: Any) -> Call:
    """A ``SelectionClient`` of the user's own data with arguments changed."""

    def call(path: Path) -> object:
        config = {"selection": SELECTION, "trainer": {"steps": 1}, **change.pop("keys", {})}
        given = {"model": nn.Linear(3, 3), "data": DATA, "config": config, **change}
        return SelectionClient(given.pop("model"), local=True, run_dir=None, **given)

    return Call("a loop's own losses and data", name, call, pattern)


def wrong(how: str, model: nn.Module, batch: SelectionBatch) -> Any:
    """Losses that are wrong in a way of ``task_code.WRONG``; these know no count of calls."""
    assert batch.labels is not None
    right = nn.functional.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    return WRONG[how](right, 1)


def of_a_task(how: str) -> dict[str, Any]:
    return {"task": {"name": "task_code:Wrong", "args": {"how": how}}}


def dropping(items: Sequence[Any]) -> Any:
    return default_collate(items[1:] or items * 2)


def drawing(items: Sequence[Any]) -> Any:
    inputs, labels = default_collate(items)
    return inputs + torch.randn(inputs.shape), labels


class Embedded(nn.Module):
    """Knows so many ids, as models of transformers tell."""

    def __init__(self, ids: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(ids, 4), nn.Linear(4, 12)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids))  # type: ignore[no-any-return]


LM = {"task": {"name": "causal_lm"}}
NAN = [(torch.full((3,), torch.nan), 0), *OTHERS[1:]]
SEVEN = [*OTHERS[1:], (ROWS[0] + 9, 7)]
FITS = "numbers of a fit in Python"
CALLS = [
    fit(
        "no way", r"allowed one of holdout=…, folds=… and reference=True, of a model th", folds=None
    ),
    fit("two ways", "allowed one of holdout=", holdout=OTHERS),
    fit("a holdout of the data", "got 64 points of 64 that are in data", folds=None, holdout=DATA),
    fit("several holdouts", "holdout: got a dict of a, allowed one", folds=None, holdout={"a": 1}),
    fit("an iterator", r"holdout: got a list_iterator, all", folds=None, holdout=iter(DATA)),
    fit("a holdout's label", r"got a label 7, allowed 0 to 2", folds=None, holdout=SEVEN),
    fit("NaN", "got nan, allowed a finite one; lower trainer", data=NAN),
    fit(
        "nothing to train",
        "model: it has no parameters",
        model=nn.Linear(3, 3).requires_grad_(False),
    ),
    fit(
        "tokens of labels",
        "a task without losses of tokens, allowed",
        out="new",
        of_options={"batch": 8, "tokens": True},
    ),
    fit(
        "tokens without a file",
        "got options with tokens and no out, allowed",
        of_options={"batch": 8, "tokens": True},
    ),
    fit(
        "a folder that is a file",
        r"out .*bad_calls\.py is no folder that",
        FITS,
        out=f"{__file__}/x",
    ),
    fit(
        "a file that exists",
        r"out: got \S+bad_calls\.py, which exists, allowed a",
        FITS,
        out=__file__,
    ),
    fit("one fold", "folds: got 1, allowed 2 to the 64 points", FITS, folds=1),
    fit("half a fold", r"folds: got 2\.5, allowed 2 to the 64 points", FITS, folds=2.5),
    fit("a great batch", "batch: got 99, allowed at most the 32", FITS, of_options={"batch": 99}),
    fit("no batch", "batch: got 0, allowed whole numbers from 1", FITS, of_options={"batch": 0}),
    fit("no epoch", "epochs: got 0, allowed whole numbers from 1", FITS, of_options={"epochs": 0}),
    client(
        "several data sets", "got a dict of train, test, allowed one", data={"train": 1, "test": 2}
    ),
    client("dropped", r"data: items 0, 31, 63: collate_fn gave tensors", collate_fn=dropping),
    client("random batch", "collate_fn gave another batch of the same", collate_fn=drawing),
    client("no task", "task.name: got 'no:T', but module", keys={"task": {"name": "no:T"}}),
    client("another task", r"got ValueError: .*, allowed token ids \[T\], alone or", keys=LM),
    client(
        "an unknown id",
        r"got token id \d+ in item \d+, allowed 0 to 4, the rows of",
        model=Embedded(5),
        data=Points("train", "sequence"),
        keys=LM,
    ),
    *(
        client(f"losses: {how}", pattern, losses=partial(wrong, how))
        for how, pattern in {
            "mean": r"for 2 points gave \[\], allowed Losses of a tensor \[2\]",
            "random": "got others when those of the same 16 points were computed again",
            "ranked": "got others, by .*, for 16 points in reverse order",
        }.items()
    ),
]
