"""A causal language model with LoRA: Algorithm 1's points and weights, wherever it is scored.

The plain losses and the plain loop share no code with what is tested. What starts actors has a case
in ``make test``, and the others in ``make test-matrix``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from service_helpers import inputs, service
from torch import Tensor, nn

import threaded
from oracle import any_task
from rhoselect.client import SelectionClient
from rhoselect.inputs import RunInputs
from rhoselect.tasks import Batch
from rhoselect.trainer.records import selected_sha256, weights_sha256
from servers import PASSWORD, free_port, tcp_server
from support import ended_well, hashes, made, start, until
from task_code import Points

STEPS, n_b, n_B, CHUNK, LR = 8, 4, 16, 8, 3e-2
MATRIX = pytest.mark.matrix
BOTH_LAGS = [1, pytest.param(0, marks=MATRIX)]
AT_LAG = {0: ["selection.lag=0"], 1: ["selection.lag=1", "selection.shortlist=2"]}
# peft asks transformers by a name that is to go
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "run.toml"
    path.write_text(
        f"""
data = {{ dataset = "task_code:Points", args = {{ kind = "sequence" }} }}
task.name = "causal_lm"
model.factory = "adapted:causal_lora"
snapshots.only = "trainable"
selection = {{ function = "loss", n_b = {n_b}, n_B = {n_B}, chunk = {CHUNK} }}
scorer = {{ precision = "fp32", device = "cpu" }}
trainer = {{ steps = {STEPS}, lr = {LR}, checkpoint_every = 5, device = "cpu" }}
metrics.port = -1
"""
    )
    return path


@pytest.fixture(scope="module")
def alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The run in one process at a lag."""

    @cache
    def at(lag: int) -> Path:
        run = tmp_path_factory.mktemp("alone") / str(lag)
        train(config, run, 0, *AT_LAG[lag])
        return run

    return at


def words(*keys: str) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


def train(config: Path, run: Path, workers: int, *keys: str) -> None:
    made("train", config, "--run-dir", run, "--workers", str(workers), *words(*keys))


def resume(run: Path, workers: int) -> None:
    """From the checkpoint before the last, as if what came after it had never been."""
    *_, newest = sorted(run.glob("checkpoints/step-*"))
    for path in (newest, run / "steps.parquet", run / "summary.json"):
        path.unlink()
    made("train", "--resume", "--run-dir", run, "--workers", str(workers))


def next_tokens(model: nn.Module, items: list[list[int]]) -> Tensor:
    """The mean loss of each sequence's tokens but the first, by the logits of a whole forward."""
    longest = max(map(len, items))
    ids = torch.tensor([item + [0] * (longest - len(item)) for item in items])
    seen = torch.tensor([[1] * len(item) + [0] * (longest - len(item)) for item in items])
    logits = model(input_ids=ids, attention_mask=seen).logits
    means = [
        F.cross_entropy(row[: len(item) - 1], torch.tensor(item[1:]))
        for row, item in zip(logits, items, strict=True)
    ]
    return torch.stack(means)


def test_a_run_is_algorithm_1(config: Path, alone: Callable[[int], Path]) -> None:
    run, points = inputs(config), Points("train", "sequence")
    torch.set_num_threads(run.config.trainer.threads)
    model = run.new_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    selected = any_task(
        model,
        [torch.from_numpy(run.plan.indices(run.plan.window(step))) for step in range(STEPS)],
        lambda network, indices: next_tokens(network, [points[i] for i in indices.tolist()]),
        torch.zeros(len(points)),
        n_b=n_b,
        chunk=CHUNK,
        lr=LR,
    )
    rows = pq.read_table(alone(0) / "steps.parquet")["indices"].to_pylist()
    assert rows == [row.tolist() for row in selected]
    found = load_file(alone(0) / "model.safetensors")
    torch.testing.assert_close(found, dict(model.state_dict()), rtol=1e-4, atol=1e-6)
    moved = {name for name, tensor in found.items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in found if ".lora_" in name}


@pytest.mark.parametrize("lag", BOTH_LAGS)
def test_scorers_of_which_one_stops_and_a_resume_change_nothing(
    config: Path, tmp_path: Path, alone: Callable[[int], Path], lag: int
) -> None:
    keys = [*AT_LAG[lag], "queue.lease_s=0.5"]
    threaded.run(config, tmp_path / "3", 3, keys, frozen=1)
    assert hashes(tmp_path / "3") == hashes(alone(lag))
    run = shutil.copytree(alone(lag), tmp_path / "0")
    resume(run, workers=0)
    assert hashes(run) == hashes(alone(lag))


def looped(run: RunInputs, **where: Any) -> tuple[str, str]:
    """The hashes of a user's loop."""
    model, selected = run.new_model(), []
    torch.set_num_threads(run.config.trainer.threads)
    optimizer = torch.optim.AdamW(
        model.parameters(), LR, weight_decay=run.config.trainer.weight_decay, fused=True
    )
    with SelectionClient(model, **where) as selection:
        for batch in selection:
            found = run.task.losses(model, Batch(batch.indices.numpy(), batch.inputs))
            optimizer.zero_grad()
            found.losses.mean().backward()
            optimizer.step()
            selection.step(model)
            selected.append(batch.indices.numpy())
    return selected_sha256(selected), weights_sha256(model)


@pytest.mark.parametrize("lag", BOTH_LAGS)
def test_loops_select_the_same(
    config: Path, tmp_path: Path, alone: Callable[[int], Path], lag: int
) -> None:
    run = inputs(config, AT_LAG[lag])
    local = looped(run, local=True, config=run.config.model_dump(), run_dir=tmp_path / "local")
    assert local == hashes(alone(lag))
    with service(run, tmp_path / "served") as address:
        assert looped(run, address=address) == hashes(alone(lag))


@MATRIX
@pytest.mark.timeout(240)
def test_a_loop_served_by_a_command_with_scorers_selects_the_same(
    ray_address: str,
    config: Path,
    tmp_path: Path,
    alone: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    port, run, secret = free_port(), tmp_path / "run", tmp_path / "secret"
    secret.write_text(PASSWORD)
    keys = [f"queue.url=redis://127.0.0.1:{port}", f"queue.password_file={secret}"]
    keys += [*AT_LAG[1], f"cluster.address={ray_address}"]
    with tcp_server(tmp_path, port):
        server = start("serve", config, "--run-dir", run, "--workers", 1, *words(*keys))
        address = re.search(r"serving at ([^,]+),", server.stdout.readline())
        assert address is not None
        assert looped(inputs(config, keys), address=address[1]) == hashes(alone(1))
        server.send_signal(signal.SIGINT)
        ended_well(server)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("workers", "lag"),
    [
        pytest.param(1, 0, marks=pytest.mark.matrix),
        pytest.param(1, 1, marks=MATRIX),
        pytest.param(3, 0, marks=MATRIX),
    ],
)
def test_scorers_in_processes_of_their_own(
    ray_session: None,
    config: Path,
    tmp_path: Path,
    alone: Callable[[int], Path],
    workers: int,
    lag: int,
) -> None:
    train(config, tmp_path / "run", workers, *AT_LAG[lag])
    assert hashes(tmp_path / "run") == hashes(alone(lag))


@MATRIX
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lag", AT_LAG)
def test_a_scorer_is_killed_and_the_run_resumed(
    ray_address: str,
    config: Path,
    tmp_path: Path,
    alone: Callable[[int], Path],
    lag: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the run is paused, so that it ends after the killed scorer's place is taken."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    port, run, secret = free_port(), tmp_path / "run", tmp_path / "secret"
    secret.write_text(PASSWORD)
    keys = [*AT_LAG[lag], "queue.lease_s=1.0", "snapshots.transport=ray"]
    keys += [f"queue.url=redis://127.0.0.1:{port}", f"queue.password_file={secret}"]
    keys += [f"cluster.address={ray_address}", "trainer.scores=false"]

    def ready() -> list[int]:
        log = run / "logs" / "scorer-1.log"
        text = log.read_text() if log.exists() else ""
        return [int(number) for number in re.findall(r"process (\d+) is ready", text)]

    with tcp_server(tmp_path, port):
        process = start("train", config, "--workers", 3, "--run-dir", run, *words(*keys))
        until(lambda: (run / "control.json").exists(), process)
        made("pause", run)
        until(lambda: len(ready()) == 1, process)
        os.kill(ready()[0], signal.SIGKILL)
        until(lambda: len(ready()) == 2, process)
        made("resume", run)
        ended_well(process)
        assert hashes(run) == hashes(alone(lag))
        resume(run, workers=1)
        assert hashes(run) == hashes(alone(lag))
