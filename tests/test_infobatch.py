"""InfoBatch against a plain loop that takes one point after the other, in real runs."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from rhoselect.compute import threads
from rhoselect.config import load
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.report.history import past_of
from rhoselect.report.runs import load_run
from rhoselect.selection.infobatch import Pruning, mean_of_known
from rhoselect.trainer.records import selected_sha256, weights_sha256
from support import made, rhoctl

N_B, STEPS, R, DELTA = 12, 100, 0.6, 0.83
SETS = [f"selection.{key}={N_B}" for key in ("n_b", "n_B", "chunk")]
SETS += ["selection.function=infobatch", f"infobatch.r={R}", f"infobatch.delta={DELTA}"]
SETS += [f"trainer.steps={STEPS}", "trainer.checkpoint_every=50", "trainer.lr=3e-3"]
HASHES = ("selected_sha256", "weights_sha256")
MASK = 2**64 - 1


def flags(*sets: str) -> list[str]:
    return [word for each in (*SETS, *sets) for word in ("--set", each)]


def draw(seed: int, epoch: int, index: int) -> float:
    """A number in [0, 1): SplitMix64 of the key (seed, "infob", epoch), then of the index."""
    state = 0
    for part in (seed, int.from_bytes(b"infob"), epoch, index):
        state = (state ^ part) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return (state >> 11) / 2**53


class Plain:
    """InfoBatch in plain Python and torch: ``known`` has the last losses by data-set index,
    ``seen`` how often each point was looked at."""

    def __init__(self, inputs: RunInputs) -> None:
        self.known, self.step, self.picked = dict[int, float](), 0, list[list[int]]()
        self.seen, self.weights = dict.fromkeys(inputs.train.indices.tolist(), 0), list[float]()
        self.plan, self.seed = inputs.plan, inputs.config.seed
        self.model = inputs.new_model().train()
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=3e-3, weight_decay=0.01, fused=True
        )
        points = self.kept()
        for self.step in range(STEPS):
            indices, weights = zip(*itertools.islice(points, N_B), strict=True)
            batch = inputs.train.read(np.array(indices), torch.device("cpu"))
            losses = F.cross_entropy(self.model(batch.inputs), batch.labels, reduction="none")
            optimizer.zero_grad()
            (losses * torch.tensor(weights)).mean().backward()
            optimizer.step()
            self.known.update(zip(indices, losses.tolist(), strict=True))
            self.picked.append(list(indices))
            self.weights += weights

    def kept(self) -> Iterator[tuple[int, float]]:
        """Endlessly a point that is kept, and its weight."""
        for epoch in itertools.count():
            mean = np.mean(list(self.known.values())) if self.known else 0.0
            start = epoch * self.plan.n
            order = self.plan.indices(np.arange(start, start + self.plan.n, dtype=np.uint64))
            for index in order.tolist():
                self.seen[index] += 1
                below = self.step < DELTA * STEPS and self.known.get(index, mean) < mean
                if not (below and draw(self.seed, epoch, index) < R):
                    yield index, 1 / (1 - R) if below else 1.0


@pytest.fixture(scope="module", params=["shuffled", "streamed"])
def data(
    request: pytest.FixtureRequest, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Settings of a data set whose train split does not begin at index 0."""
    folder = tmp_path_factory.mktemp("points") / "data"
    shutil.copytree(dataset_dir, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"] |= {"holdout": [0, 200], "train": [200, 600]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return [f"data.path={folder}", f"data.order={request.param}"]


@pytest.fixture(scope="module")
def run(tiny_config: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("infobatch") / "run"
    flagged = ("train", tiny_config, *flags(*data), "--run-dir", folder)
    said = made(*flagged, "--workers", "2").out
    assert "infobatch needs no forward: one process, no workers\n" in said
    return folder


@pytest.fixture(scope="module")
def plain(tiny_config: Path, data: list[str]) -> Plain:
    with threads(1):
        return Plain(open_inputs(load(tiny_config, [*SETS, *data])))


def hashes(run: Path) -> list[str]:
    summary = json.loads((run / "summary.json").read_text())
    return [summary[key] for key in HASHES]


def test_a_run_is_that_of_a_plain_loop(run: Path, plain: Plain) -> None:
    picked = (np.array(indices) for indices in plain.picked)
    assert hashes(run) == [selected_sha256(picked), weights_sha256(plain.model)]
    assert set(plain.weights) == {1.0, 1 / (1 - R)}
    assert max(plain.seen.values()) >= 4, "more than three epochs"
    drawn = pq.read_table(run / "steps.parquet")["candidates"].to_numpy()
    assert drawn.sum() == sum(plain.seen.values()) > 1.2 * N_B * STEPS
    assert (drawn[83:] == N_B).all(), "nothing is dropped in the last share of the steps"
    assert (drawn[:33] == N_B).all(), "nor in the first epoch"


def test_the_losses_are_in_the_checkpoint_and_a_resumed_run_is_the_same(
    run: Path, plain: Plain
) -> None:
    expected = hashes(run)
    newest = run / "checkpoints" / f"step-{STEPS:09d}.safetensors"
    losses = load_file(newest)["state.losses"]
    assert losses.dtype == torch.float32
    assert losses.tolist() == [plain.known[index] for index in sorted(plain.known)]
    for path in (newest, run / "steps.parquet", run / "summary.json"):
        path.unlink()  # as if it had been killed after step 50, within an epoch
    made("train", "--resume", "--run-dir", run)
    assert hashes(run) == expected
    assert torch.equal(load_file(newest)["state.losses"], losses)


def test_a_report_knows_that_dropped_points_were_seen(run: Path, plain: Plain) -> None:
    _, past = past_of(run, load_run(run))
    assert past.seen.tolist() == [plain.seen[index] for index in sorted(plain.seen)]
    assert past.selected.sum() == N_B * STEPS < past.seen.sum()


def test_the_expected_sum_of_an_epochs_gradients_is_that_of_all_points() -> None:
    random = np.random.default_rng(0)
    indices = np.arange(1000, 3000, dtype=np.int64)
    losses = random.exponential(size=2000).astype(np.float32)
    losses[:100] = np.nan
    gradients = random.normal(losses[:, None], size=(2000, 3))
    gradients[:100] = 1.0
    mean, sums = mean_of_known(losses), []
    assert mean == pytest.approx(np.nanmean(losses.astype(np.float64)), rel=1e-12)
    for epoch in range(400):
        kept, weights = Pruning(7, epoch, mean, 0.75)(indices, losses)
        assert kept[~(losses < mean)].all() and (weights[~(losses < mean)] == 1).all()
        sums.append((gradients * (kept * weights)[:, None]).sum(0))
    error = np.std(sums, axis=0) / np.sqrt(len(sums))
    assert (np.abs(np.mean(sums, axis=0) - gradients.sum(0)) < 4 * error).all()
    assert (error < 0.02 * np.abs(gradients.sum(0))).all(), "a bias of a fiftieth would be seen"


@pytest.mark.parametrize("loss", [0.1, np.nan], ids=["equal", "not known"])
def test_of_losses_that_are_alike_none_is_below_the_mean(loss: float) -> None:
    losses = np.full(1001, loss, np.float32)
    kept, weights = Pruning(0, 1, mean_of_known(losses), 0.5)(np.arange(1001), losses)
    assert kept.all() and (weights == 1).all()


def test_a_loop_of_the_users_own_is_told_to_use_rhoctl_train(
    tiny_config: Path, tmp_path: Path
) -> None:
    result = rhoctl("serve", tiny_config, *flags(), "--run-dir", tmp_path / "run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "selection.function: got 'infobatch', which keeps the losses of a run" in result.err
