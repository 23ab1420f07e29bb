"""Forms of a scoring forward beside precision: what they compute, and where they are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import threaded
from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.errors import ConfigError, ModelError
from rhoselect.models import mlp, resnet18_small, small_cnn, text_transformer
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.models.rowwise import FLOPS, quantize
from rhoselect.selection import Needs
from rhoselect.selector.audit import spearman
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch
from support import hashes, made, rhoctl

TASK, CPU, CLASSES = Classification(), torch.device("cpu"), 10
SHAPE, TOKENS = (1, 16, 16), (12,)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def model_of(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if name == "text":
        return text_transformer(input_shape=TOKENS, classes=CLASSES, vocabulary=50, width=32)
    make, width = {"mlp": (mlp, 16), "cnn": (small_cnn, 4), "resnet": (resnet18_small, 4)}[name]
    return make(input_shape=SHAPE, classes=CLASSES, width=width)


def batch(name: str, seed: int, points: int = 64) -> Batch:
    torch.manual_seed(seed)
    text = name == "text"
    inputs = torch.randint(1, 50, (points, *TOKENS)) if text else torch.randn(points, *SHAPE)
    labels = torch.randint(CLASSES, (points,))
    return Batch(np.arange(points, dtype=np.int64), (inputs, labels))


def learner_of(name: str, seed: int = 0, steps: int = 2, **keys: object) -> Learner:
    learner = Learner(model_of(name, seed), TrainerConfig(lr=1e-2, **keys), 0, CPU, TASK)
    for step in range(steps):
        learner.update(batch(name, 100 + step, 16), None, step)
    return learner


def losses(name: str, numerics: Numerics, learner: Learner, chunk: Batch) -> Tensor:
    replica = Replica(model_of(name, 99), numerics, CPU, TASK)
    replica(batch(name, 5))  # what came before changes nothing
    replica.load(learner.pieces(replica.layout))
    return replica(chunk).losses


def test_a_layer_of_int8_sums_rounded_rows_exactly() -> None:
    layer = nn.Linear(48, 32)
    weight, bias, inputs = layer.weight.detach().clone(), layer.bias.detach(), torch.randn(5, 7, 48)
    inputs[0, 0] = 0

    def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
        scale = rows.abs().amax(-1, keepdim=True) / 127
        return (rows / scale.clamp(min=1e-30)).round().double(), scale

    quantize(layer, "int8", CPU)
    with torch.no_grad():
        found = layer(inputs)
    (rows, scales), (columns, of_columns) = rounded(inputs), rounded(weight)
    sums = (rows @ columns.T).float()
    torch.testing.assert_close(found, sums * scales * of_columns.T[0] + bias, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        found, nn.functional.linear(inputs, weight, bias), rtol=0.1, atol=0.05
    )
    with torch.no_grad():
        assert torch.equal(layer(inputs[2:3]), found[2:3]), "no other row changes a row"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["mlp", "text"])
def test_int8_scores_follow_the_weights_and_keep_the_order_of_losses(
    name: str, precision: str
) -> None:
    """Of layers whose sizes are multiples of 16: the head stays as it is."""
    chunk, numerics = batch(name, 1), Numerics(precision, quantize="int8")
    for learner in (learner_of(name), learner_of(name, seed=7, steps=0)):
        exact = losses(name, Numerics("fp32"), learner, chunk)
        found = losses(name, numerics, learner, chunk)
        assert not torch.equal(found, exact)
        assert spearman(found.numpy(), exact.numpy()) > 0.98
        assert torch.equal(found, losses(name, numerics, learner, chunk))


def test_int8_weights_travel_as_others_do() -> None:
    plain = Replica(model_of("mlp"), Numerics("bf16"), CPU, TASK).layout
    layout = Replica(model_of("mlp"), Numerics("bf16", quantize="int8"), CPU, TASK).layout
    assert {n: (t.dtype, t.shape) for n, t in layout.items()} == {
        n: (t.dtype, t.shape) for n, t in plain.items()
    }


@pytest.mark.parametrize("key", ["compile", "graph"])
def test_what_looks_into_a_forward_needs_it_in_parts(key: str) -> None:
    for needs in (Needs(features=True), Needs(passes=2)):
        with pytest.raises(ConfigError, match=rf"scorer\.{key}: got true with a selection\.func"):
            Replica(model_of("mlp"), Numerics("fp32", **{key: True}), CPU, TASK, needs)


def test_products_of_int8_are_counted() -> None:
    """Those of a GPU. A CPU computes float32's."""
    factors = (torch.ones(size, dtype=torch.int8) for size in ((32, 16), (16, 48)))
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        torch._int_mm(*factors)
    assert counter.get_total_flops() == 2 * 32 * 16 * 48


def test_training_by_pixel_computes_the_same_but_for_rounding_and_resumes_exactly() -> None:
    """The stored state is in the usual layout."""
    by_pixel, plain = (learner_of("cnn", channels_last=each) for each in (True, False))
    weights = [p for p in by_pixel.model.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    losses = [each.losses(batch("cnn", 8)) for each in (by_pixel, plain)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
    resumed = learner_of("cnn", seed=3, steps=0, channels_last=True)
    stored = by_pixel.state_dict().items()
    usual = {name: t.clone(memory_format=torch.contiguous_format) for name, t in stored}
    resumed.load_state_dict(usual)
    for learner in (by_pixel, resumed):
        learner.update(batch("cnn", 9, 16), None, 2)
    again = resumed.model.state_dict()
    assert all(torch.equal(t, again[name]) for name, t in by_pixel.model.state_dict().items())


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "form"),
    [("resnet", {"fold_batchnorm": True}), ("text", {"quantize": "int8"})],
    ids=["resnet folded", "text int8"],
)
def test_a_compiled_forward_keeps_the_order_of_losses(name: str, form: dict[str, object]) -> None:
    chunk, learner = batch(name, 1), learner_of(name)
    exact = losses(name, Numerics("fp32"), learner, chunk)
    found = losses(name, Numerics("fp32", compile=True, **form), learner, chunk)
    assert spearman(found.numpy(), exact.numpy()) > 0.98
    assert torch.equal(found, losses(name, Numerics("fp32", compile=True, **form), learner, chunk))


@pytest.mark.matrix
def test_each_of_many_shapes_is_compiled_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch stops at eight, and would compute the others in another way."""
    replica = Replica(model_of("mlp"), Numerics("fp32", compile=True), CPU, TASK)
    first = {points: replica(batch("mlp", 1, points)).losses for points in range(2, 12)}
    other = Replica(model_of("mlp"), Numerics("fp32", compile=True), CPU, TASK)
    for points in reversed(first):
        assert torch.equal(other(batch("mlp", 1, points)).losses, first[points])


class Printing(nn.Module):
    """Has a forward that torch.compile does not take as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return self.head(inputs.flatten(1))


@pytest.mark.long
def test_what_cannot_be_compiled_is_one_line(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config as inductor  # it takes seconds

    replica = Replica(Printing(), Numerics("fp32", compile=True), CPU, TASK)
    with pytest.raises(
        ModelError, match=r"scorer\.compile: the forward cannot be compiled \("
    ) as raised:
        replica(batch("mlp", 1))
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    keys = ("--set", "scorer.compile=true", "--set", "model.args.width=24")
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        result = rhoctl("train", tiny_config, "--run-dir", tmp_path / "run", *keys)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "scorer.compile" in result.err and "compiler" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["scorer.compile=true"], marks=pytest.mark.long),
        pytest.param(["scorer.quantize=int8"], marks=pytest.mark.matrix),
        pytest.param(
            ["trainer.channels_last=true", "model={factory='rhoselect.models:small_cnn', args={}}"],
            marks=pytest.mark.matrix,
        ),
    ],
    ids=["compiled", "int8", "trained by pixel"],
)
def test_forms_give_the_same_run_with_any_number_of_scorers(
    tiny_config: Path, tmp_path: Path, more: list[str]
) -> None:
    flags = [word for key in more for word in ("--set", key)]
    made("train", tiny_config, "--run-dir", tmp_path / "0", *flags)
    shared, _ = threaded.run(tiny_config, tmp_path / "2", 2, more)
    assert hashes(tmp_path / "0") == (shared["selected_sha256"], shared["weights_sha256"])


@pytest.mark.matrix
@pytest.mark.parametrize(
    "more",
    [["scorer.quantize=int8"], ["scorer.compile=true", "scorer.quantize=int8", "selection.lag=1"]],
    ids=["int8", "compiled int8 at lag 1"],
)
def test_forms_give_the_same_run_in_other_processes(
    ray_session: None, tiny_config: Path, tmp_path: Path, more: list[str]
) -> None:
    flags = [word for key in more for word in ("--set", key)]
    for workers in ("0", "2"):
        made("train", tiny_config, "--run-dir", tmp_path / workers, "--workers", workers, *flags)
    assert hashes(tmp_path / "2") == hashes(tmp_path / "0")
