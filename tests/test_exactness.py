"""The law: selected points and final weights are Algorithm 1's, whatever the number of workers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import threaded
from oracle import algorithm_1
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.models.build import build_model
from rhoselect.trainer.records import selected_sha256, weights_sha256
from support import rhoctl

MODELS = {
    "mlp": ["model.factory=rhoselect.models:mlp", "model.args={width = 32}"],
    "resnet": [
        "model.factory=rhoselect.models:resnet18_small",
        "model.args={width = 4}",
        "trainer.steps=4",
    ],
}
MODELS["folded"] = [*MODELS["resnet"], "selection.bn=running", "scorer.fold_batchnorm=true"]
# Starting actors takes the time: a few combinations in processes, the others in threads. Others in
# processes are in "make test-long" and "make test-matrix".
IN_PROCESSES = [("mlp", "fp32", 0, [3])]
LONG = [("resnet", "bf16", 1, [2])]
ALL_IN_PROCESSES = [
    ("mlp", "bf16", 1, [5]),
    ("folded", "fp32", 0, [2]),
    ("resnet", "bf16", 0, [5]),
    ("mlp", "fp32", 0, [1, 2, 5]),
    ("resnet", "fp32", 0, [2]),
    ("resnet", "fp32", 1, [5]),
    ("resnet", "bf16", 1, [1]),
]
IN_THREADS = [
    ("mlp", "fp32", 1, 3),
    ("mlp", "bf16", 0, 3),
    ("resnet", "fp32", 0, 2),
    ("folded", "fp32", 0, 2),
]
WAYS = [["snapshots.transport=ray", "selection.lag=1", "trainer.scores=false"]]
LONG_WAYS = [["selection.lag=2", "selection.rescore=scorers", "selection.audit_every=4"]]
ALL_WAYS = [
    ["selection.lag=1", "selection.rescore=trainer", "trainer.scores=false"],
    ["selection.lag=2", "trainer.publish_every=4", "trainer.scores=false", "scorer.prefetch=1"],
    ["snapshots.transport=ray"],
    ["selection.lag=2", "selection.rescore=scorers", "scorer.prefetch=4"],
    ["selection.lag=1", "selection.rescore=scorers", "selection.audit_every=4"],
]


def cases(few: list[Any], long: list[Any], others: list[Any]) -> list[Any]:
    """Those of every change, of ``make test-long`` and of ``make test-matrix``."""
    marked = [pytest.param(*each, marks=pytest.mark.long) for each in long]
    return [*few, *marked, *(pytest.param(*each, marks=pytest.mark.matrix) for each in others)]


def settings(model: str, precision: str, lag: int) -> list[str]:
    return [*MODELS[model], f"scorer.precision={precision}", f"selection.lag={lag}"]


def train(config: Path, run: Path, sets: list[str], workers: int) -> dict:
    flags = [word for item in sets for word in ("--set", item)]
    result = rhoctl("train", config, "--run-dir", run, "--workers", workers, *flags)
    assert result.code == 0, result.err
    return json.loads((run / "summary.json").read_text())


def hashes(summary: dict) -> tuple[str, str]:
    return summary["selected_sha256"], summary["weights_sha256"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("model", "bn"), [("mlp", "running"), ("resnet", "running"), ("resnet", "batch")]
)
def test_lag_0_is_algorithm_1(
    tiny_config: Path, tmp_path: Path, model: str, precision: str, bn: str
) -> None:
    sets = [*settings(model, precision, 0), f"selection.bn={bn}"]
    summary = train(tiny_config, tmp_path / "run", sets, workers=0)

    inputs = open_inputs(load(tiny_config, sets))
    config, plan, points = inputs.config, inputs.plan, inputs.train
    twin = build_model(
        config.model.factory,
        config.model.args,
        inputs.dataset.input_shape,
        inputs.dataset.classes,
        config.seed,
    )
    torch.set_num_threads(config.trainer.threads)

    def read(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = points.read(indices.numpy(), torch.device("cpu"))
        return batch.inputs, batch.labels

    windows = [
        torch.from_numpy(points.index_of(plan.indices(plan.window(t))))
        for t in range(config.trainer.steps)
    ]
    assert inputs.scoring.il is not None
    selected = algorithm_1(
        twin.train(),
        windows,
        read,
        torch.from_numpy(inputs.scoring.il.values),
        n_b=config.selection.n_b,
        chunk=config.selection.chunk,
        lr=config.trainer.lr,
        autocast={"fp32": None, "bf16": torch.bfloat16}[precision],
        batch_statistics=bn == "batch",
    )
    expected = selected_sha256(s.numpy() for s in selected), weights_sha256(twin)
    assert hashes(summary) == expected


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("model", "precision", "lag", "numbers"), cases(IN_PROCESSES, LONG, ALL_IN_PROCESSES)
)
def test_any_number_of_workers(
    ray_session: None,
    tiny_config: Path,
    tmp_path: Path,
    model: str,
    precision: str,
    lag: int,
    numbers: list[int],
) -> None:
    sets = settings(model, precision, lag)
    alone = train(tiny_config, tmp_path / "0", sets, workers=0)
    assert alone["max_staleness_steps"] == lag
    for workers in numbers:
        shared = train(tiny_config, tmp_path / str(workers), sets, workers)
        assert hashes(shared) == hashes(alone), f"{workers} workers"


@pytest.mark.parametrize(("model", "precision", "lag", "workers"), IN_THREADS)
def test_any_number_of_workers_in_threads(
    tiny_config: Path, tmp_path: Path, model: str, precision: str, lag: int, workers: int
) -> None:
    sets = settings(model, precision, lag)
    alone = train(tiny_config, tmp_path / "0", sets, workers=0)
    assert alone["max_staleness_steps"] == lag
    shared, _ = threaded.run(tiny_config, tmp_path / "shared", workers, sets)
    assert hashes(shared) == hashes(alone)


def test_any_number_of_workers_with_two_threads_each(tiny_config: Path, tmp_path: Path) -> None:
    """Bits depend on the number of threads, so it is the same whoever computes."""
    sets = ["model.factory=rhoselect.models:small_cnn", "model.args={}", "selection.lag=1"]
    sets += ["scorer.threads=2", "trainer.threads=2", "trainer.steps=3"]
    alone = train(tiny_config, tmp_path / "0", sets, workers=0)
    shared, _ = threaded.run(tiny_config, tmp_path / "2", 2, sets)
    assert hashes(shared) == hashes(alone)


@pytest.mark.parametrize(
    "more",
    cases(WAYS, *([(way,) for way in ways] for ways in (LONG_WAYS, ALL_WAYS))),
    ids=[*map(" ".join, (*WAYS, *LONG_WAYS, *ALL_WAYS))],
)
def test_other_ways_of_the_same_run(
    ray_session: None, tiny_config: Path, tmp_path: Path, more: list[str]
) -> None:
    alone = train(tiny_config, tmp_path / "0", more, workers=0)
    shared = train(tiny_config, tmp_path / "2", more, workers=2)
    assert hashes(shared) == hashes(alone)


@pytest.mark.parametrize(
    "more",
    [
        ["trainer.scores=false", "scorer.prefetch=1"],
        ["trainer.publish_every=4", "selection.lag=2"],
        ["selection.lag=1", "selection.shortlist=1"],
        ["selection.function=loss"],
        ["augment.crop_padding=2", "augment.flip=true", "selection.lag=1"],
        ["model.factory=rhoselect.models:small_cnn", "scorer.channels_last=true"],
    ],
    ids=lambda more: " ".join(more),
)
def test_other_settings_of_the_same_run_in_threads(
    tiny_config: Path, tmp_path: Path, more: list[str]
) -> None:
    alone = train(tiny_config, tmp_path / "0", more, workers=0)
    shared, _ = threaded.run(tiny_config, tmp_path / "2", 2, more)
    assert hashes(shared) == hashes(alone)


def test_methods_see_the_same_windows(tiny_config: Path, tmp_path: Path) -> None:
    inputs = open_inputs(load(tiny_config))
    plan = inputs.plan
    for function in ("uniform", "loss", "irreducible_loss", "reducible_loss"):
        run = tmp_path / function
        train(tiny_config, run, [f"selection.function={function}"], workers=0)
        steps = pq.read_table(run / "steps.parquet")
        for step, chosen in enumerate(steps["indices"].to_pylist()):
            window = plan.indices(plan.window(step))
            assert np.isin(chosen, window).all()


def test_a_lagging_run_differs_from_a_fresh_one(tiny_config: Path, tmp_path: Path) -> None:
    fresh = train(tiny_config, tmp_path / "0", [], workers=0)
    stale = train(tiny_config, tmp_path / "1", ["selection.lag=1"], workers=0)
    assert hashes(fresh) != hashes(stale)
