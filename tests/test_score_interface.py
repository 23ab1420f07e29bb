"""The hardest selection methods to come, each written against today's interface, unchanged.

Importance sampling, class weights as state and a joint pick run through the real loop, too, and
must do there what a plain loop over the same methods does.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect import config as configuration
from rhoselect.compute import threads
from rhoselect.config import Config
from rhoselect.data.il_table import IlMetadata, IlTable
from rhoselect.errors import ConfigError
from rhoselect.inputs import check_scoring, open_inputs
from rhoselect.metrics import Metrics
from rhoselect.models.build import build_model
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.plan import Plan
from rhoselect.queue.memory import MemoryQueue
from rhoselect.runtime.local import run_serial
from rhoselect.selection import Needs, Picked, ScoreFunction, ScoreInputs, Scoring, Shortlist
from rhoselect.selection.interface import State
from rhoselect.selection.scoring import gumbel
from rhoselect.snapshots.codec import decode, encode
from rhoselect.snapshots.local import LocalStore
from rhoselect.tasks import Classification
from rhoselect.trainer.build import build_trainer
from rhoselect.trainer.records import read_steps, selected_sha256, weights_sha256
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import Batch, ForwardOutput, TopK

TASK = Classification()

SEED, CLASSES, STEPS, LR = 3, 6, 30, 0.01
TRAIN, COPIES, N_B, n_b, CHUNK = 96, 4, 32, 4, 8


def logit_gradients(output: ForwardOutput) -> Tensor:
    """The gradient [C, K] of each loss with respect to its logits: softmax - one-hot."""
    return output.logits.softmax(1) - F.one_hot(output.labels, output.logits.shape[1])


class Importance(ScoreFunction):
    """Gradient norms as importance (Katharopoulos & Fleuret 2018): p ∝ score, weights 1/(N p)."""

    whole_window = True

    def score(self, inputs: ScoreInputs) -> Tensor:
        norms: Tensor = logit_gradients(inputs.forward).norm(dim=1)
        return norms

    def pick(self, shortlist: Shortlist, n_b: int, rng: np.random.Generator) -> Picked:
        p = shortlist.scores / shortlist.scores.sum()
        rows = rng.choice(len(p), n_b, p=p)
        return Picked(rows, (1 / (len(p) * p[rows])).astype(np.float32))


class Bald(ScoreFunction):
    """BALD (Houlsby et al. 2011): what the weights disagree on, I(label; weights), in nats."""

    needs = Needs(passes=4)

    def score(self, inputs: ScoreInputs) -> Tensor:
        passes = inputs.forward.passes
        assert passes is not None
        p = passes.softmax(2)  # [S, C, K]
        return entropy(p.mean(0)) - entropy(p).mean(0)


def entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


class UpdatedIrreducibleLoss(ScoreFunction):
    """RHO-LOSS before its approximation (eq. 2): the IL model keeps learning, so it travels too."""

    needs = Needs(reference=True)

    def score(self, inputs: ScoreInputs) -> Tensor:
        reference = inputs.forward.reference_losses
        assert reference is not None
        return inputs.forward.losses - reference


class ClassWeights(ScoreFunction):
    """After REDUCR (Bankes et al. 2023): losses times class weights, which grow where loss is."""

    eta = 0.5

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.state["class_weights"][inputs.forward.labels] * inputs.forward.losses

    def initial_state(self, classes: int) -> State:
        return {"class_weights": torch.full((classes,), 1 / classes)}

    def next_state(self, state: State, labels: Tensor, losses: Tensor) -> State:
        weights = state["class_weights"]
        sums = torch.zeros_like(weights).index_add(0, labels, losses)
        means = sums / labels.bincount(minlength=len(weights)).clamp(min=1)
        grown = weights * (self.eta * means).exp()
        return {"class_weights": grown / grown.sum()}


class GradientNorm(ScoreFunction):
    """The plain top n_b by gradient norm, for comparison."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        norms: Tensor = logit_gradients(inputs.forward).norm(dim=1)
        return norms


class Diverse(GradientNorm):
    """DivBS (Hong et al. 2024): greedily the largest gradient that the picks so far do not span."""

    whole_window = True

    def payload(self, inputs: ScoreInputs) -> Tensor:
        return logit_gradients(inputs.forward)

    def pick(self, shortlist: Shortlist, n_b: int, rng: np.random.Generator) -> Picked:
        assert shortlist.features is not None
        residual = shortlist.features.astype(np.float64)
        free = np.ones(len(residual), bool)
        rows = np.empty(n_b, np.intp)
        for place in range(n_b):
            norms = np.where(free, np.linalg.norm(residual, axis=1), -1.0)
            if norms.max() < 1e-5:  # everything is spanned: begin another basis
                residual = shortlist.features.astype(np.float64)
                norms = np.where(free, np.linalg.norm(residual, axis=1), -1.0)
            rows[place] = row = np.argmax(norms)
            free[row] = False
            direction = residual[row] / np.linalg.norm(residual[row])
            residual = residual - np.outer(residual @ direction, direction)
        return Picked(rows)


class PickyDiverse(Diverse):
    """The same among the best of some classes: the others' scores are not finite."""

    whole_window = False

    def score(self, inputs: ScoreInputs) -> Tensor:
        return super().score(inputs).masked_fill(inputs.forward.labels % 3 == 1, math.nan)


class MeanTokenLoss(ScoreFunction):
    """Reducible loss of texts: means over the tokens, whose losses are [C, T]; padding is NaN."""

    needs = Needs(il=True, features=True)

    def score(self, inputs: ScoreInputs) -> Tensor:
        token_losses = inputs.forward.features
        assert token_losses is not None
        return token_losses.nanmean(1) - inputs.irreducible_losses


def scored(function: ScoreFunction, state: State, **output: Tensor) -> npt.NDArray[np.float64]:
    """Scores [C] as a worker computes them; losses and labels are zeros unless given."""
    points = len(output["logits"])
    given = {"losses": torch.zeros(points), "labels": torch.zeros(points, dtype=torch.int64)}
    scoring = Scoring(function, table(points) if function.needs.il else None)
    forward = ForwardOutput(**(given | output))
    return scoring(np.arange(points, dtype=np.int64), forward, state)[0]


def table(points: int) -> IlTable:
    values = 0.25 * np.arange(points, dtype=np.float32)
    return IlTable(0, values, IlMetadata("f", "m", "w", "h", (0, 0), "fp32", "now", "t", 0.0, 0))


# Importance sampling


def test_gradient_norms_are_those_of_autograd() -> None:
    logits, labels = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    norms = scored(Importance(), {}, logits=logits.detach(), labels=labels)
    np.testing.assert_allclose(norms, gradient.norm(dim=1), rtol=1e-5)


def test_importance_weights_make_the_batch_mean_unbiased() -> None:
    rng = np.random.default_rng(0)
    scores = rng.gamma(1.0, size=50) + 0.05
    values = scores**2 + rng.normal(size=50)  # what is to be averaged, such as a gradient
    shortlist = Shortlist(np.arange(50, dtype=np.int64), scores)
    plain, weighted, draws = [], [], 5000
    for window in range(draws):
        picked = Importance().pick(shortlist, 8, np.random.default_rng((0, window)))
        assert picked.weights is not None and picked.weights.dtype == np.float32
        plain.append(values[picked.rows].mean())
        weighted.append((picked.weights * values[picked.rows]).mean())
    error = float(np.std(weighted)) / math.sqrt(draws)
    assert np.mean(weighted) == pytest.approx(values.mean(), abs=4 * error)
    assert np.mean(plain) > values.mean() + 20 * error, "without weights it is far off"


# BALD


def test_bald_is_the_mutual_information_of_label_and_weights() -> None:
    passes = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)) * 3
    p = passes.double().softmax(2).numpy()
    expected = np.zeros(6)
    for c in range(6):
        for s in range(4):
            for k in range(3):  # E_weights KL(p(label | weights) || p(label))
                expected[c] += p[s, c, k] * math.log(p[s, c, k] / p[:, c, k].mean()) / 4
    np.testing.assert_allclose(scored(Bald(), {}, logits=passes[0], passes=passes), expected, 1e-4)


def test_bald_wants_disagreement_and_not_mere_uncertainty() -> None:
    sure, unsure = [60.0, 0.0], [0.0, 0.0]
    passes = torch.tensor([[unsure, sure, sure], [unsure, sure, sure[::-1]]])
    scores = scored(Bald(), {}, logits=passes[0], passes=passes)
    np.testing.assert_allclose(scores, [0, 0, math.log(2)], atol=1e-6)


# A second network


def test_the_updated_irreducible_loss_comes_from_a_second_network_in_the_snapshot() -> None:
    target, reference = (
        build_model("rhoselect.models:mlp", {"width": 8}, (6,), CLASSES, seed) for seed in (1, 2)
    )
    weights = dict(target.state_dict())
    weights |= {f"reference.{name}": t for name, t in reference.state_dict().items()}
    _, arrived, _ = decode(encode(9, weights, {}))
    prefix = "reference."
    second = {n.removeprefix(prefix): t for n, t in arrived.items() if n.startswith(prefix)}

    inputs, labels = Toy(TRAIN)[np.arange(10)]
    points = Batch(np.arange(10), (inputs, labels))
    outputs = []
    for tensors in (arrived, second):
        empty = build_model("rhoselect.models:mlp", {"width": 8}, (6,), CLASSES, 99)
        replica = Replica(empty, Numerics("fp32"), torch.device("cpu"), TASK)
        replica.load((name, tensors[name]) for name in replica.layout)
        outputs.append(replica(points))
    got = scored(
        UpdatedIrreducibleLoss(),
        {},
        logits=outputs[0].logits,
        losses=outputs[0].losses,
        reference_losses=outputs[1].losses,
    )
    with torch.no_grad():
        own = F.cross_entropy(target(inputs), labels, reduction="none")
        other = F.cross_entropy(reference(inputs), labels, reduction="none")
    np.testing.assert_allclose(got, own - other, atol=1e-6)


# Class weights


def test_class_weights_grow_with_the_loss_of_their_class_and_steer_the_scores() -> None:
    function = ClassWeights()
    state = function.initial_state(3)
    labels, losses = torch.tensor([0, 0, 2]), torch.tensor([1.0, 3.0, 4.0])
    after = function.next_state(state, labels, losses)["class_weights"]
    raw = [math.exp(0.5 * mean) for mean in (2.0, 0.0, 4.0)]
    np.testing.assert_allclose(after, [value / sum(raw) for value in raw], rtol=1e-5)
    assert torch.equal(state["class_weights"], torch.full((3,), 1 / 3)), "states are not changed"
    scores = scored(
        function,
        {"class_weights": after},
        logits=torch.zeros(3, 3),
        losses=torch.tensor([1.0, 2.0, 1.0]),
        labels=torch.tensor([0, 1, 2]),
    )
    np.testing.assert_allclose(scores, after * torch.tensor([1.0, 2.0, 1.0]), rtol=1e-6)


# A joint pick


def test_a_joint_pick_avoids_the_duplicates_that_the_best_scores_would_be() -> None:
    features = np.array([[3, 0, 0], [3, 0, 0], [2.9, 0, 0.1], [0, 2, 0], [0.5, 0, 1]], np.float32)
    norms = np.linalg.norm(features, axis=1).astype(np.float64)
    assert np.argsort(-norms, kind="stable")[:3].tolist() == [0, 1, 2]
    shortlist = Shortlist(np.arange(5, dtype=np.int64), norms, features)
    picked = Diverse().pick(shortlist, 3, np.random.default_rng(0))
    assert picked.rows.tolist() == [0, 3, 4]
    assert picked.weights is None
    everything = Diverse().pick(shortlist, 5, np.random.default_rng(0))
    assert sorted(everything.rows.tolist()) == [0, 1, 2, 3, 4]


# Tokens


def test_token_losses_are_averaged_over_the_tokens_that_are_there() -> None:
    nan = math.nan
    token_losses = torch.tensor([[1.0, 2.0, 6.0], [4.0, nan, nan], [nan, nan, nan]])
    scores = scored(MeanTokenLoss(), {}, logits=torch.zeros(3, 2), features=token_losses)
    assert scores[:2].tolist() == [3.0, 4.0 - 0.25]
    assert math.isnan(scores[2]), "an empty text is rejected by the loop, and never wins"


# The real loop


@dataclass(frozen=True)
class Toy:
    """Points [6] of six classes: ``points`` of them, of which one in COPIES is different."""

    points: int
    classes: int = CLASSES

    def __len__(self) -> int:
        return self.points

    def __getitem__(self, index: int | npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        different = self.points // COPIES
        random = torch.Generator().manual_seed(self.points)
        labels = torch.arange(different) % self.classes
        inputs = torch.randn(different, 6, generator=random) + F.one_hot(labels, 6)
        rows = torch.as_tensor(index) % different
        return inputs[rows], labels[rows]


def toy(split: str) -> Toy:
    return {"train": Toy(TRAIN), "test": Toy(24)}[split]


@dataclass(frozen=True)
class Scored:
    """Scores [C] and payload [C, F] of points, under frozen weights and the state of that time."""

    function: ScoreFunction
    model: nn.Module
    state: State

    def __call__(self, indices: npt.NDArray[np.int64]) -> Shortlist:
        inputs, labels = Toy(TRAIN)[indices]
        with torch.no_grad():
            logits = self.model(inputs)
        losses = F.cross_entropy(logits, labels, reduction="none")
        given = ScoreInputs(indices, ForwardOutput(losses, logits, labels), None, self.state)
        payload = self.function.payload(given)
        return Shortlist(
            indices,
            self.function.score(given).double().numpy(),
            None if payload is None else payload.numpy(),
        )


def plain_loop(function: ScoreFunction, lag: int) -> tuple[list[npt.NDArray[np.int64]], nn.Module]:
    """Algorithm 1 with the methods of ``function``: no queue, no snapshots, no scorer.

    With lag, a shortlist of 5 n_b from stale scores and Gumbel noise, then scored afresh.
    """
    model = build_model("rhoselect.models:mlp", {"width": 16}, (6,), CLASSES, SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    plan, state = Plan(SEED, TRAIN, N_B, CHUNK), function.initial_state(CLASSES)
    stages: list[Scored] = []
    selected = []
    for step in range(STEPS):
        candidates = plan.indices(plan.window(step))
        stages.append(Scored(function, copy.deepcopy(model).eval(), state))
        stale = stages[max(0, step - lag)]
        parts = [stale(part) for part in np.split(candidates, N_B // CHUNK)]
        values = np.concatenate([part.scores for part in parts])
        usable = np.flatnonzero(np.isfinite(values))
        if lag:
            noisy = values[usable] + gumbel(SEED, step, candidates[usable])
            best = np.argsort(-noisy, kind="stable")[: N_B if function.whole_window else 5 * n_b]
            usable = usable[best]
            found = stages[step](candidates[usable])
        else:
            payloads = [part.features for part in parts if part.features is not None]
            payload = np.concatenate(payloads)[usable] if payloads else None
            found = Shortlist(candidates[usable], values[usable], payload)
        rows = np.lexsort((usable, -found.scores))
        if not lag and not function.whole_window:
            rows = rows[:n_b]
        features = None if found.features is None else found.features[rows]
        shortlist = Shortlist(found.indices[rows], found.scores[rows], features)
        picked = function.pick(shortlist, n_b, np.random.default_rng((SEED, step)))
        selected.append(shortlist.indices[picked.rows])

        inputs, labels = Toy(TRAIN)[selected[-1]]
        losses = F.cross_entropy(model(inputs), labels, reduction="none")
        weights = torch.ones(n_b) if picked.weights is None else torch.from_numpy(picked.weights)
        optimizer.zero_grad()
        (losses * weights).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        state = function.next_state(state, labels, losses.detach())
    return selected, model


def settings(name: str, lag: int = 0) -> Config:
    """The configuration of a run with this module's function ``name``."""
    return configuration.parse(
        {
            "seed": SEED,
            "data": {"dataset": f"{__name__}:toy"},
            "model": {"factory": "rhoselect.models:mlp", "args": {"width": 16}},
            "selection": {
                "function": f"{__name__}:{name}",
                "n_b": n_b,
                "n_B": N_B,
                "chunk": CHUNK,
                "lag": lag,
            },
            "scorer": {"precision": "fp32"},
            "trainer": {"steps": STEPS, "lr": LR, "eval_every": STEPS, "checkpoint_every": 8},
            "metrics": {"port": -1},
        }
    )


def finish(folder: RunFolder, config: Config) -> tuple[dict[str, object], npt.NDArray[np.int64]]:
    """Run to the end; summary and selected indices [STEPS, n_b]."""
    summary = run_serial(open_inputs(config), folder, nullcontext)
    return summary, np.array(read_steps(folder.path)["indices"].to_pylist())


def run(name: str, path: Path, lag: int = 0) -> tuple[dict[str, object], npt.NDArray[np.int64]]:
    config = settings(name, lag)
    return finish(RunFolder.create(path, config), config)


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("function", [Importance, ClassWeights, Diverse, PickyDiverse])
def test_the_loop_does_what_a_plain_loop_over_the_function_does(
    function: type[ScoreFunction], lag: int, tmp_path: Path
) -> None:
    """Same points, same final weights, bit for bit: of scores, state, payload, pick and weights."""
    summary, _ = run(function.__name__, tmp_path / "run", lag)
    with threads(1):
        selected, model = plain_loop(function(), lag)
    assert summary["selected_sha256"] == selected_sha256(selected)
    assert summary["weights_sha256"] == weights_sha256(model)
    rescored = (N_B if function.whole_window else 5 * n_b) if lag else 0
    forward = 2 * (6 * 16 + 16 * 16 + 16 * CLASSES)
    flops = summary["flops"]
    assert isinstance(flops, dict)
    assert flops["score"] == STEPS * (N_B + rescored) * forward


def test_a_joint_pick_trains_on_different_points_where_the_best_scores_are_copies(
    tmp_path: Path,
) -> None:
    _, diverse = run("Diverse", tmp_path / "diverse")
    _, best = run("GradientNorm", tmp_path / "best")
    assert all(len(set(row % (TRAIN // COPIES))) == n_b for row in diverse)
    assert not all(len(set(row % (TRAIN // COPIES))) == n_b for row in best)


def test_the_state_steers_what_is_picked(tmp_path: Path) -> None:
    """With class weights that stay equal for ever, other points are picked."""
    _, steered = run("ClassWeights", tmp_path / "steered")
    _, by_loss = run("LossOnly", tmp_path / "loss")
    assert (steered[0] == by_loss[0]).all(), "before the first step the weights are equal"
    assert (steered != by_loss).any()


class LossOnly(ClassWeights):
    eta = 0.0


class StatefulWithoutForward(ClassWeights):
    needs = Needs(forward=False)

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.state["class_weights"][torch.from_numpy(inputs.indices) % CLASSES]


def test_a_state_travels_with_the_weights_or_not_at_all() -> None:
    """Found when a run starts, not by a worker in the middle of it."""
    with pytest.raises(ConfigError, match="fails on two points: KeyError: 'class_weights'"):
        check_scoring(open_inputs(settings("StatefulWithoutForward")), torch.device("cpu"))


class CrashingQueue(MemoryQueue):
    """A queue that stops the process when it is asked for a window."""

    def __init__(self, window: int) -> None:
        super().__init__(lease_s=60)
        self._fatal = window

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        if window == self._fatal:
            raise KeyboardInterrupt
        return super().pop(window, k, timeout_s, shortlist)


@pytest.mark.parametrize("lag", [0, 2])
def test_the_state_survives_a_crash(lag: int, tmp_path: Path) -> None:
    """With lag, the states of the snapshots still in use survive too."""
    whole, _ = run("ClassWeights", tmp_path / "whole", lag)
    config = settings("ClassWeights", lag)
    folder = RunFolder.create(tmp_path / "run", config)
    queue = CrashingQueue(window=21)
    trainer = build_trainer(open_inputs(config), folder, queue, LocalStore(), Metrics(), workers=0)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.status.step == 21
    resumed, _ = finish(RunFolder.resume(folder.path), config)
    for key in ("selected_sha256", "weights_sha256"):
        assert resumed[key] == whole[key]
