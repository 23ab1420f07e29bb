"""Parts on the device: a replica's bits, snapshots through shared memory, registered memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.compute import DTYPES, as_guest, repeatable
from rhoselect.config import TrainerConfig
from rhoselect.data import ArrowDataset
from rhoselect.metrics import Metrics
from rhoselect.models import mlp, resnet18_small, small_cnn, text_transformer
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.models.weights import staged
from rhoselect.scorer.reader import Arriving, Work
from rhoselect.selection.scoring import Prepared
from rhoselect.selector.audit import spearman
from rhoselect.snapshots.pinning import Cuda
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch, Ticket

TASK = Classification()

CLASSES = 10
IMAGES = {"mlp": mlp, "cnn": small_cnn, "resnet": resnet18_small}
LONG_S = 20.0


def model_of(name: str, seed: int = 0) -> nn.Module:
    torch.default_generator.manual_seed(seed)
    if name == "transformer":
        return text_transformer(input_shape=(12,), classes=CLASSES, vocabulary=50)
    return IMAGES[name](input_shape=(1, 28, 28), classes=CLASSES, width=8)


def batch_of(name: str, seed: int, device: torch.device, points: int = 24) -> Batch:
    torch.default_generator.manual_seed(seed)
    shape = (points, 12) if name == "transformer" else (points, 1, 28, 28)
    inputs = torch.randint(1, 50, shape) if name == "transformer" else torch.randn(shape)
    labels = torch.randint(CLASSES, (points,))
    indices = np.arange(points, dtype=np.int64)
    return Batch(indices, (inputs.to(device), labels.to(device)))


@pytest.fixture
def kernels(device: torch.device) -> Iterator[None]:
    """Those of a run."""
    with repeatable(device):
        yield


def trained(name: str, device: torch.device) -> Learner:
    """After three steps, so that weights and BatchNorm statistics are no initial ones."""
    learner = Learner(model_of(name), TrainerConfig(lr=1e-2), 0, device, TASK)
    for step in range(3):
        learner.update(batch_of(name, 100 + step, device), None, step)
    return learner


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", [*IMAGES, "transformer"])
def test_a_replica_equals_plain_autocast_from_float32_weights(
    device: torch.device, kernels: None, name: str, precision: str
) -> None:
    learner, points = trained(name, device), batch_of(name, 1, device)
    replica = Replica(model_of(name, 99), Numerics(precision), device, TASK)
    replica.load(learner.pieces(replica.layout))
    model = copy.deepcopy(learner.model).eval()
    enabled = precision != "fp32"
    with torch.no_grad(), torch.autocast(device.type, DTYPES[precision], enabled=enabled):
        logits = model(points.inputs).float()
    output = replica(points)
    assert torch.equal(output.logits, logits)
    assert torch.equal(output.losses, F.cross_entropy(logits, points.labels, reduction="none"))
    assert output.losses.device.type == device.type


@pytest.mark.parametrize("name", [*IMAGES, "transformer"])
def test_a_chunk_has_the_same_bits_whatever_came_before(
    device: torch.device, kernels: None, name: str
) -> None:
    replica = Replica(model_of(name), Numerics("bf16"), device, TASK)
    chunk = batch_of(name, 1, device)
    alone = replica(chunk).losses.clone()
    replica(batch_of(name, 2, device, points=77))
    assert torch.equal(replica(chunk).losses, alone)


@pytest.mark.parametrize("name", ["mlp", "resnet", "transformer"])
def test_a_graph_has_the_bits_of_eager_launches(
    cuda: torch.device, kernels: None, name: str
) -> None:
    """Also after other weights came, and for another shape; results outlive the next replay."""
    replica = Replica(model_of(name, 99), Numerics("bf16", graph=True), cuda, TASK)
    replica.share()
    chunks = [batch_of(name, seed, cuda, points) for seed, points in ((1, 24), (2, 8), (3, 24))]
    for learner in (trained(name, cuda), Learner(model_of(name), TrainerConfig(), 0, cuda, TASK)):
        plain = Replica(model_of(name, 98), Numerics("bf16"), cuda, TASK)
        for each in (replica, plain):
            each.load(learner.pieces(each.layout))
        found = [replica(chunk).losses for chunk in chunks]
        assert all(
            torch.equal(one, plain(chunk).losses) for one, chunk in zip(found, chunks, strict=True)
        )


@pytest.mark.parametrize(
    "numerics",
    [Numerics("bf16", quantize="int8"), Numerics("bf16", quantize="fp8")],
    ids=["int8", "fp8"],
)
def test_a_layer_of_8_bits_keeps_ranks_and_bits(
    device: torch.device, kernels: None, numerics: Numerics
) -> None:
    if numerics.quantize == "fp8" and device.type == "cpu":
        pytest.skip("a CPU has no fp8")
    learner, chunk = trained("transformer", device), batch_of("transformer", 1, device, points=64)
    exact = Replica(model_of("transformer", 99), Numerics("fp32"), device, TASK)
    replica = Replica(model_of("transformer", 98), numerics, device, TASK)
    for each in (exact, replica):
        each.load(learner.pieces(each.layout))
    losses = replica(chunk).losses.clone()
    assert spearman(*(each.cpu().numpy() for each in (losses, exact(chunk).losses))) > 0.98
    replica(batch_of("transformer", 2, device, points=7))
    assert torch.equal(replica(chunk).losses, losses)


@pytest.mark.parametrize("name", ["mlp", "resnet", "transformer"])
def test_steps_repeat_bit_for_bit(device: torch.device, kernels: None, name: str) -> None:
    one, two = (trained(name, device).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[each], two[each]) for each in one)


@pytest.fixture(params=["shared memory", "a file on disk"])
def store_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where snapshots are: a kernel may refuse to lock the pages of a file on disk."""
    if request.param == "a file on disk":
        yield tmp_path / "store"
    else:
        yield SharedMemoryStore.new_folder("gputest", 1)


def test_weights_travel_from_the_device_to_the_device(
    device: torch.device, kernels: None, store_folder: Path
) -> None:
    """Through shared memory, in several versions that reuse the buffers; kernels still work."""
    learner = trained("resnet", device)
    replica = Replica(model_of("resnet", 99), Numerics("bf16"), device, TASK)
    layout = {name: tensor.dtype for name, tensor in replica.layout.items()}
    points = batch_of("resnet", 1, device)
    twin = Replica(model_of("resnet", 98), Numerics("bf16"), device, TASK)
    with (
        closing(SharedMemoryStore(store_folder, writer=True)) as writer,
        closing(SharedMemoryStore(store_folder, writer=False)) as reader,
    ):
        for version in range(4):
            state = {"weight": torch.full((3,), float(version), device=device)}
            writer.publish(version, learner.tensors, layout, state)
            assert torch.ones(8, device=device).add_(1).sum().item() == 16, "a kernel after that"
            got = reader.load(version, replica.load, LONG_S)
            assert got is not None
            assert torch.equal(got["weight"].cpu(), state["weight"].cpu())
            writer.retire(version)
            twin.load(learner.pieces(twin.layout))
            assert torch.equal(replica(points).losses, twin(points).losses), version
            learner.update(batch_of("resnet", 200 + version, device), None, version)


def test_a_buffer_may_be_reused_as_soon_as_a_load_returns(
    device: torch.device, store_folder: Path
) -> None:
    """Else a copy that is still under way would read the next version."""
    weights = {"w": torch.zeros(1 << 22, device=device)}
    target: dict[str, Tensor] = {"w": torch.empty(1 << 22, device=device)}

    def into(pieces: Iterator[tuple[str, Tensor]]) -> None:
        for name, tensor in pieces:
            target[name].copy_(tensor, non_blocking=True)

    with (
        closing(SharedMemoryStore(store_folder, writer=True)) as writer,
        closing(SharedMemoryStore(store_folder, writer=False)) as reader,
    ):
        for version in range(0, 20, 2):
            for number, value in ((version, version), (version + 1, -1)):
                weights["w"].fill_(value)
                writer.publish(number, weights, {"w": torch.float32}, {})
                if value >= 0:
                    assert reader.load(number, into, LONG_S) is not None
                writer.retire(number + 1)
            assert target["w"].eq(version).all()


def test_a_registration_that_fails_does_not_break_the_next_kernel(
    cuda: torch.device, tmp_path: Path
) -> None:
    """CUDA keeps the error until someone asks; a foreign kernel must not be told of it."""
    tensors = {"w": torch.arange(1000.0, device=cuda)}
    with closing(SharedMemoryStore(tmp_path / "store", writer=True)) as writer:
        for version in range(3):
            writer.publish(version, tensors, {"w": torch.float32}, {})
            found = torch.ones(1000, device=cuda).mul_(2).sum()
            assert found.item() == 2000
            writer.retire(version)


def test_an_error_of_a_refused_registration_is_forgotten(cuda: torch.device) -> None:
    driver, memory = Cuda(), torch.zeros(1 << 20, dtype=torch.uint8)
    assert driver.register(memory.data_ptr(), memory.nbytes) == 0
    assert driver.register(memory.data_ptr(), memory.nbytes) != 0, "it is locked already"
    driver.forget_error()
    assert torch.ones(8, device=cuda).add_(1).sum().item() == 16
    assert driver.unregister(memory.data_ptr()) == 0


def test_a_guest_leaves_random_numbers_as_they_were(device: torch.device) -> None:
    def drawn() -> list[float]:
        return [torch.rand(()).item(), torch.rand((), device=device).item()]

    torch.manual_seed(3)
    expected = drawn()
    torch.manual_seed(3)
    with as_guest(device):
        drawn()
    assert drawn() == expected


def test_deterministic_kernels_are_those_of_the_block_alone(cuda: torch.device) -> None:
    inputs = torch.randn(2, 4, 9, 9, device=cuda, requires_grad=True)
    with repeatable(cuda), pytest.raises(RuntimeError, match="deterministic"):
        F.adaptive_avg_pool2d(inputs, 2).sum().backward()
    F.adaptive_avg_pool2d(inputs, 2).sum().backward()
    assert inputs.grad is not None


def test_copies_for_a_checkpoint_are_of_the_moment_when_it_began(device: torch.device) -> None:
    """Though the next step changes the tensors at once."""
    tensors = {"flat": torch.randn(1 << 22, device=device)}
    tensors["turned"] = torch.randn(64, 32, device=device).t()
    tensors["counter"] = torch.zeros((), dtype=torch.int64)
    expected = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    copies, arrivals = staged(tensors)
    for tensor in tensors.values():
        tensor += 1
    for arrival in arrivals:
        arrival.synchronize()
    assert len(arrivals) == (device.type == "cuda")
    for name, tensor in expected.items():
        assert copies[name].is_contiguous() and torch.equal(copies[name], tensor), name


def test_points_in_the_memory_of_the_device_are_those_on_the_disk(
    device: torch.device, ground: tuple[Path, Path]
) -> None:
    disk, held = (ArrowDataset.open(ground[0]).split("train") for _ in range(2))
    held.hold(device)
    indices = np.random.default_rng(0).permutation(disk.indices)[:50]
    expected, found = (points.read(indices, device) for points in (disk, held))
    assert found.inputs.device == found.labels.device == expected.inputs.device
    assert torch.equal(found.inputs, expected.inputs)
    assert torch.equal(found.labels, expected.labels)


def test_points_that_arrive_beside_forwards_are_whole_when_used(cuda: torch.device) -> None:
    """Each takes the memory of an earlier one as soon as it may."""
    arriving, weights, found = Arriving(cuda), torch.randn(4096, 4096, device=cuda), []
    nothing = np.zeros(0, np.int64)
    for number in range(20):
        host = torch.full((1 << 22,), float(number)).pin_memory()
        with arriving.beside() as arrival:
            points = host.to(cuda, non_blocking=True) + 1
        batch = Batch(nothing, (points, points))
        work = Work(Ticket(0, 0, 0), nothing, nothing, batch, Prepared(None, None), 0.0, arrival)
        _ = weights @ weights
        points = arriving.waited(batch, work).inputs
        _ = weights @ weights
        found.append(points.aminmax())
        del points, batch, work
    assert [(low.item(), high.item()) for low, high in found] == [(n, n) for n in range(1, 21)]


def test_busy_seconds_are_those_of_the_device(cuda: torch.device) -> None:
    """Not those of launching."""
    metrics, weights = Metrics(), torch.randn(4096, 4096, device=cuda)
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(50):
        with metrics.busy("forward", cuda):
            weights = torch.tanh(weights @ weights)
    ended.record()
    counted = metrics.busy_by_phase()["forward"]
    assert counted == pytest.approx(began.elapsed_time(ended) / 1e3, rel=0.5)
