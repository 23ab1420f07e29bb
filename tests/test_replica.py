"""A scoring replica computes, bit for bit, what plain PyTorch computes from float32 weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.errors import ModelError
from rhoselect.models.build import build_model
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch

TASK = Classification()

CPU = torch.device("cpu")
SHAPE, CLASSES = (1, 16, 16), 10
MLP = ("rhoselect.models:mlp", 64)
CNN = ("rhoselect.models:small_cnn", 8)
RESNET = ("rhoselect.models:resnet18_small", 8)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def batch(seed: int, points: int = 24) -> Batch:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(points, *SHAPE, generator=random)
    labels = torch.randint(CLASSES, (points,), generator=random)
    return Batch(np.arange(points, dtype=np.int64), (inputs, labels))


def build(factory: str, width: int, seed: int = 0) -> nn.Module:
    return build_model(factory, {"width": width}, SHAPE, CLASSES, seed)


def trained(factory: str, width: int) -> Learner:
    """A learner after three steps, so that weights and BatchNorm statistics are no initial ones."""
    learner = Learner(build(factory, width), TrainerConfig(lr=1e-2), 0, CPU, TASK)
    for step in range(3):
        learner.update(batch(100 + step), None, step)
    return learner


def replica_of(learner: Learner, model: tuple[str, int], precision: str, bn: str) -> Replica:
    """A replica built from other initial weights, then loaded from the learner's snapshot."""
    replica = Replica(build(*model, seed=99), Numerics(precision, bn), CPU, TASK)
    replica.load(learner.pieces(replica.layout))
    return replica


def plain(model: nn.Module, points: Batch, autocast: torch.dtype | None) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), torch.autocast("cpu", autocast, enabled=autocast is not None):
        logits = model(points.inputs).float()
    return logits, F.cross_entropy(logits, points.labels, reduction="none")


@pytest.mark.parametrize("model", [MLP, CNN, RESNET])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_replica_equals_plain_autocast_from_float32_weights(
    model: tuple[str, int], precision: str
) -> None:
    learner, points = trained(*model), batch(1)
    output = replica_of(learner, model, precision, "running")(points)
    logits, losses = plain(learner.model.eval(), points, DTYPES.get(precision))
    assert torch.equal(output.logits, logits)
    assert torch.equal(output.losses, losses)
    assert torch.equal(output.labels, points.labels)
    assert output.losses.dtype == output.logits.dtype == torch.float32
    assert not output.losses.requires_grad


@pytest.mark.parametrize("model", [MLP, CNN, RESNET])
def test_the_layout_by_pixel_computes_the_same_but_for_rounding(model: tuple[str, int]) -> None:
    learner, points = trained(*model), batch(1)
    plain_layout = replica_of(learner, model, "fp32", "running")
    by_pixel = Replica(build(*model, seed=99), Numerics("fp32", channels_last=True), CPU, TASK)
    by_pixel.load(learner.pieces(by_pixel.layout))
    torch.testing.assert_close(by_pixel(points).losses, plain_layout(points).losses)
    assert torch.equal(by_pixel(points).losses, by_pixel(points).losses)


@pytest.mark.parametrize("model", [MLP, RESNET])
def test_low_precision_is_really_low(model: tuple[str, int]) -> None:
    learner, points = trained(*model), batch(1)
    exact = replica_of(learner, model, "fp32", "running")(points).losses
    rounded = replica_of(learner, model, "bf16", "running")(points).losses
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


def test_weights_travel_in_the_scoring_dtype_and_batchnorm_in_float32() -> None:
    layout = Replica(build(*RESNET), Numerics("bf16"), CPU, TASK).layout
    low = {name for name, like in layout.items() if like.dtype == torch.bfloat16}
    high = {name for name, like in layout.items() if like.dtype == torch.float32}
    assert {"stem.0.weight", "blocks.2.conv1.weight", "head.weight", "head.bias"} <= low
    assert {"stem.1.weight", "stem.1.running_mean", "blocks.0.bn1.running_var"} <= high
    assert "stem.1.num_batches_tracked" not in layout, "no forward of a replica reads it"


def test_loading_copies_and_a_later_snapshot_replaces_an_earlier_one() -> None:
    learner, points = trained(*MLP), batch(1)
    replica = Replica(build(*MLP, seed=99), Numerics("fp32"), CPU, TASK)
    earlier = {name: tensor.clone() for name, tensor in learner.pieces(replica.layout)}
    replica.load(iter(earlier.items()))
    before = replica(points).losses.clone()
    for tensor in earlier.values():
        tensor.zero_()
    assert torch.equal(replica(points).losses, before)
    learner.update(batch(7), None, 3)
    replica.load(learner.pieces(replica.layout))
    assert torch.equal(replica(points).losses, plain(learner.model.eval(), points, None)[1])


class Tied(nn.Module):
    """A head that is tied to its embedding, as in a language model, and a layer that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(256, 10, bias=False)
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs.flatten(1)) + self.embedding(inputs.flatten(1))


def test_tied_weights_travel_once() -> None:
    learner, points = Learner(Tied(), TrainerConfig(lr=1e-2), 0, CPU, TASK), batch(1)
    learner.update(points, None, 0)
    replica = Replica(Tied(), Numerics("bf16"), CPU, TASK)
    assert list(replica.layout) == ["embedding.weight"]
    replica.keep(["head.weight"])  # as both are named where they are frozen
    replica.load(learner.pieces(replica.layout))
    assert torch.equal(replica(points).losses, plain(learner.model, points, torch.bfloat16)[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [MLP, RESNET])
def test_sharing_the_learner_s_weights_gives_the_same_bits_and_leaves_them_alone(
    model: tuple[str, int], precision: str
) -> None:
    learner, other, points = trained(*model), trained(*model), batch(1)
    other.update(batch(7), None, 3)
    sharing = Replica(build(*model, seed=99), Numerics(precision), CPU, TASK)
    sharing.share()
    for step in range(3, 6):
        sharing.load(learner.pieces(sharing.layout))
        copied = replica_of(learner, model, precision, "running")
        assert torch.equal(sharing(points).losses, copied(points).losses)
        learner.update(batch(step), None, step)
    before = {name: tensor.clone() for name, tensor in learner.tensors.items()}
    sharing.load(other.pieces(sharing.layout))
    assert torch.equal(
        sharing(points).losses, replica_of(other, model, precision, "running")(points).losses
    )
    assert all(torch.equal(before[name], t) for name, t in learner.tensors.items())


def test_shared_weights_are_not_copied() -> None:
    learner, points = trained(*RESNET), batch(1)
    sharing = Replica(build(*RESNET, seed=99), Numerics("fp32"), CPU, TASK)
    sharing.share()
    sharing.load(learner.pieces(sharing.layout))
    before = sharing(points).losses
    learner.update(batch(7), None, 3)  # no load after it: the parameters are the learner's own
    assert not torch.equal(sharing(points).losses, before)


def test_a_snapshot_that_lacks_a_tensor_is_not_loaded_silently() -> None:
    replica = Replica(build(*MLP), Numerics("fp32"), CPU, TASK)
    tensors = dict(trained(*MLP).pieces(replica.layout))
    del tensors["3.weight"]
    with pytest.raises(KeyError, match=r"3\.weight"):
        replica.load(iter(tensors.items()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batch_mode_uses_the_statistics_of_the_chunk(precision: str) -> None:
    learner, points = trained(*RESNET), batch(1)
    by_chunk = replica_of(learner, RESNET, precision, "batch")(points)
    by_running = replica_of(learner, RESNET, precision, "running")(points)
    assert not torch.allclose(by_chunk.losses, by_running.losses, rtol=1e-3)
    train_mode = copy.deepcopy(learner.model).train()
    logits, losses = plain(train_mode, points, DTYPES.get(precision))
    assert torch.equal(by_chunk.logits, logits)
    assert torch.equal(by_chunk.losses, losses)


def test_batch_mode_owns_no_running_statistics_and_leaves_the_trainers_alone() -> None:
    learner = trained(*RESNET)
    before = {name: buffer.clone() for name, buffer in learner.model.named_buffers()}
    replica = replica_of(learner, RESNET, "fp32", "batch")
    assert before.keys()
    assert not before.keys() & replica.layout.keys()
    assert learner.model.state_dict().keys() == replica.layout.keys() | before.keys()
    for seed in range(3):
        replica(batch(seed))
    for name, buffer in learner.model.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("bn", ["batch", "running"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_scores_of_a_chunk_do_not_depend_on_other_chunks(bn: str, precision: str) -> None:
    learner, chunk = trained(*RESNET), batch(1)
    alone = replica_of(learner, RESNET, precision, bn)(chunk).losses
    busy = replica_of(learner, RESNET, precision, bn)
    for seed in (2, 3):
        busy(batch(seed))
        assert torch.equal(busy(chunk).losses, alone)


class TiedTextModel(nn.Module):
    """A model of tokens whose head is its embedding: [C, T] int64 to logits [C, K] of the next."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 16)
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, classes, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.embedding(tokens))
        logits: Tensor = self.head(mixed[:, -1])
        return logits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_transformer_with_tied_weights_equals_plain_autocast(precision: str) -> None:
    torch.manual_seed(0)
    model, tokens = TiedTextModel(50), torch.randint(50, (6, 8))
    points = Batch(np.arange(6, dtype=np.int64), (tokens, torch.randint(50, (6,))))
    learner = Learner(model, TrainerConfig(lr=1e-2), 0, CPU, TASK)
    learner.update(points, None, 0)
    replica = Replica(TiedTextModel(50), Numerics(precision), CPU, TASK)
    replica.load(learner.pieces(replica.layout))
    logits, _ = plain(model.eval(), points, DTYPES.get(precision))
    assert torch.equal(replica(points).logits, logits)


def test_all_weights_cast_halve_what_travels_and_keep_the_order_of_losses() -> None:
    torch.manual_seed(0)
    model, tokens = TiedTextModel(50), torch.randint(50, (200, 8))
    points = Batch(np.arange(200, dtype=np.int64), (tokens, torch.randint(50, (200,))))
    learner = Learner(model, TrainerConfig(lr=1e-2), 0, CPU, TASK)
    learner.update(points, None, 0)
    losses, matrix_bytes = {}, {}
    for cast in ("autocast", "all"):
        replica = Replica(TiedTextModel(50), Numerics("bf16", cast=cast), CPU, TASK)
        replica.load(learner.pieces(replica.layout))
        losses[cast] = replica(points).losses
        matrix_bytes[cast] = sum(t.nbytes for t in replica.layout.values() if t.ndim > 1)
    exact = plain(model.eval(), points, None)[1]
    assert matrix_bytes["all"] == 2 * sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert matrix_bytes["autocast"] > matrix_bytes["all"]
    for rounded in losses.values():
        ranks = torch.stack([exact.argsort().argsort(), rounded.argsort().argsort()]).float()
        assert torch.corrcoef(ranks)[0, 1] > 0.99
    assert not torch.equal(losses["all"], losses["autocast"])


@pytest.mark.parametrize("cast", ["autocast", "all"])
def test_float32_scores_do_not_depend_on_what_is_cast(cast: str) -> None:
    learner, points = trained(*RESNET), batch(1)
    replica = Replica(build(*RESNET, seed=99), Numerics("fp32", cast=cast), CPU, TASK)
    replica.load(learner.pieces(replica.layout))
    assert torch.equal(replica(points).losses, plain(learner.model.eval(), points, None)[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_folded_convolutions_give_the_same_losses_but_for_the_last_bits(precision: str) -> None:
    """Also after other weights were loaded, and without running a BatchNorm."""
    points, tolerance = batch(1), 1e-4 if precision == "fp32" else 5e-2
    folded = Replica(build(*RESNET, seed=99), Numerics(precision, fold_batchnorm=True), CPU, TASK)
    calls = []
    for module in folded._model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_: calls.append(1))
    for learner in (
        trained(*RESNET),
        Learner(build(*RESNET, seed=5), TrainerConfig(), 0, CPU, TASK),
    ):
        plain_replica = replica_of(learner, RESNET, precision, "running")
        folded.load(learner.pieces(folded.layout))
        losses, expected = folded(points).losses, plain_replica(points).losses
        torch.testing.assert_close(losses, expected, rtol=tolerance, atol=tolerance)
    assert not calls


def test_a_convolution_that_others_use_too_is_left_as_it_is() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.head = nn.Linear(4, CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            maps = self.conv(inputs)
            return self.head((self.norm(maps) + maps).mean((2, 3)))

    model = Shared()
    plain_replica = Replica(copy.deepcopy(model), Numerics("fp32"), CPU, TASK)
    folded = Replica(model, Numerics("fp32", fold_batchnorm=True), CPU, TASK)
    assert torch.equal(folded(batch(1)).losses, plain_replica(batch(1)).losses)


def test_a_model_that_branches_on_values_cannot_be_folded() -> None:
    class Branching(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs if inputs.sum() > 0 else -inputs

    with pytest.raises(ModelError, match=r"scorer\.fold_batchnorm: this model cannot be traced"):
        Replica(Branching(), Numerics("fp32", fold_batchnorm=True), CPU, TASK)
