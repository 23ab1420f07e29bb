"""A loop of the user's own leaves a run folder like that of ``rhoctl train``."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from service_helpers import inputs, service, train
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rhoselect.client import SelectionClient
from rhoselect.errors import ConfigError, FencedError, RunFolderError, UserError
from rhoselect.inputs import RunInputs
from rhoselect.inputs.probe import scoring_facts
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.scorer.build import build_scorer
from rhoselect.service import sessions
from rhoselect.service.served import Backends, ServedRun
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer import own_loop
from rhoselect.trainer.hardware import agree
from rhoselect.trainer.records import weights_sha256
from rhoselect.trainer.runfolder import RunFolder
from support import CLASSES, DEADLINE_S, hashes, made, patches, rhoctl
from warm import Process

pytestmark = pytest.mark.usefixtures("away")

STEPS = 20
MEASURED = ("wait_ms", "step_ms", "correct_share")
"""Columns that another run, or another loop, does not have the same."""


def accuracy(run: RunInputs, model: nn.Module) -> float:
    points = run.test.read(run.test.indices, torch.device("cpu"))
    with torch.no_grad():
        return float((model(points.inputs).argmax(1) == points.labels).double().mean())


class Logging(SelectionClient):
    """Logs the accuracy after half of the steps, and after the end."""

    run: RunInputs

    def step(self, model: nn.Module, losses: Tensor | None = None) -> None:
        super().step(model, losses)
        if self._step == STEPS // 2:
            self.log(self._step, accuracy=accuracy(self.run, model))


def loop(run: RunInputs, model: nn.Module, **where: Any) -> None:
    """Train, measure half way, and after the end."""
    selection = Logging(model, **where)
    selection.run = run
    train(run, selection, model)
    selection.log(STEPS, accuracy=torch.tensor(accuracy(run, model)), loss=float("nan"))


def rows(folder: Path) -> list[dict[str, Any]]:
    table = pq.read_table(folder / "steps.parquet")
    return table.drop_columns(list(MEASURED)).to_pylist()


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_keys_of_optimization_are_ignored(tiny_config: Path, tmp_path: Path) -> None:
    """Also one that suits no model: the optimizer is the loop's."""
    run = inputs(tiny_config, ["trainer.groups=[{pattern = 'none'}]"])
    loop(run, run.new_model(), local=True, config=run.config.model_dump(), run_dir=tmp_path / "run")
    assert summary_of(tmp_path / "run")["flops"]["train"] > 0


@pytest.mark.parametrize("where", ["local", "served"])
@pytest.mark.parametrize("function", ["reducible_loss", "uniform"])
def test_a_loop_leaves_what_the_trainer_does(
    tiny_config: Path, tmp_path: Path, where: str, function: str
) -> None:
    """Rows, summary, report, and the export of every point under the last weights."""
    sets, folder = [f"selection.function={function}"], tmp_path / where
    flags = [word for each in sets for word in ("--set", each)]
    made("train", tiny_config, "--run-dir", tmp_path / "trained", *flags)
    run = inputs(tiny_config, sets)
    model = run.new_model()
    if where == "local":
        config = run.config.model_dump()
        loop(run, model, local=True, config=config, run_dir=folder)
    else:
        with service(run, folder) as address:
            loop(run, model, address=address)

    assert rows(folder) == rows(tmp_path / "trained")
    summary, expected = summary_of(folder), summary_of(tmp_path / "trained")
    assert summary.keys() == expected.keys()
    known = where == "local" or function != "uniform"  # a service without scorers has no weights
    own = {"best_accuracy", "final_accuracy", "best_metric", "final_metric"}
    own |= {"wall_seconds", "busy_seconds"}
    own |= {"trainer_wait_seconds", "scored_points_per_second", "steps_to"}
    own |= set() if known else {"weights_sha256"}
    for key in expected.keys() - own:
        assert summary[key] == expected[key], key
    evaluations = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    assert [each["step"] for each in evaluations] == [10, 20]
    assert evaluations[1]["loss"] is None
    assert summary["final_accuracy"] == pytest.approx(expected["final_accuracy"])

    made("report", folder, tmp_path / "trained", "--json", tmp_path / "report.json")
    table = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert table[0]["final_accuracy"] == pytest.approx(table[1]["final_accuracy"])
    made("report", folder, "--out", tmp_path / "page.html")
    if known:
        for name in (where, "trained"):
            out = tmp_path / f"{name}.parquet"
            made("export", tmp_path / name, "--out", out, "--device", "cpu")
        exported = pq.read_table(tmp_path / f"{where}.parquet")
        assert exported.equals(pq.read_table(tmp_path / "trained.parquet"))
    else:
        refused = rhoctl("export", folder, "--out", tmp_path / "points.parquet")
        assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_a_served_network_with_batchnorm_has_statistics_of_candidates(
    tiny_config: Path, tmp_path: Path
) -> None:
    """The loop does not send those of its own: it ends with what ``rhoctl train`` ends with."""
    sets = ["model={factory = 'user_code:Dropped', args = {dropout = 0.0}}", "trainer.steps=4"]
    flags = [word for each in sets for word in ("--set", each)]
    made("train", tiny_config, "--run-dir", tmp_path / "trained", *flags)
    run, folder = inputs(tiny_config, sets), tmp_path / "served"
    model = run.new_model()
    with service(run, folder) as address:
        train(run, SelectionClient(model, address), model)
    assert hashes(folder) == hashes(tmp_path / "trained")
    model.load_state_dict(load_file(folder / "model.safetensors"))
    assert weights_sha256(model) == hashes(folder)[1]


def test_a_service_without_the_device_lets_its_scorers_score(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a head without a GPU. The scorer is a thread here; all that it pushes is its own."""
    for module in (sessions, own_loop):
        monkeypatch.setattr(module, "service_device", lambda config, workers: None)
    run, folder = inputs(tiny_config, ["trainer.scores=false"]), tmp_path / "served"
    RunFolder.create(folder, run.config, run.sha256, kind="served")
    served, stop, counted = ServedRun(folder, 1, scores=False), threading.Event(), Metrics("scorer")

    def score(folder: RunFolder, queue: MemoryQueue, snapshots: LocalStore) -> None:
        scorer = build_scorer(run, torch.device("cpu"), 0, 1, queue, snapshots, counted)
        agree(folder, "scorer 0", scoring_facts(run, scorer.weights.replica))
        scorer.run(stop)

    @contextmanager
    def backends(folder: RunFolder, workers: int) -> Iterator[Backends]:
        queue, snapshots = MemoryQueue(60.0), LocalStore()
        thread = threading.Thread(target=score, args=(folder, queue, snapshots))
        thread.start()
        try:
            yield Backends(queue, snapshots, folder, status_queue=queue)
        finally:
            stop.set()
            thread.join()

    model = run.new_model()
    with sessions.sessions(run, served, backends)(0, 1) as (_, session):
        for step in range(3):
            session.publish(step, model.state_dict())
            assert len(session.next(step).points.indices) == run.config.selection.n_b
    assert counted.points_scored() >= 3 * run.config.selection.n_B
    assert summary_of(folder)["exact"] is True
    with pytest.raises(ConfigError, match="workers: got 0, allowed 1 to"):
        served.scale(0)


def test_a_loop_that_resumes_goes_on_in_its_folder(tiny_config: Path, tmp_path: Path) -> None:
    """Without the end of the loop before it, which may take no further step."""
    run, folder = inputs(tiny_config), tmp_path / "run"
    model, twin = run.new_model(), run.new_model()
    expected = train(run, SelectionClient(twin, local=True, config=tiny_config, run_dir=None), twin)
    where: dict[str, Any] = {"local": True, "config": tiny_config, "run_dir": folder}
    before = SelectionClient(model, **where)
    train(run, before, model, steps=7)
    next(iter(before))
    selected = train(run, SelectionClient(model, **where, step=5), model, steps=4)
    with pytest.raises(FencedError):
        before.step(model)
    chosen = [row["indices"] for row in rows_of_parts(folder, tiny_config, model, selected)]
    assert chosen[:5] == [indices.tolist() for indices in expected[:5]]
    assert chosen[5:9] == [indices.tolist() for indices in selected]


def rows_of_parts(
    folder: Path, config: Path, model: nn.Module, selected: list[Tensor]
) -> list[dict[str, Any]]:
    """The rows after one more session has opened the folder, from the step after ``selected``."""
    step = 5 + len(selected)
    session = SelectionClient(model, local=True, config=config, run_dir=folder, step=step)
    session.close()
    assert summary_of(folder)["steps"] == step
    return rows(folder)


def test_a_service_keeps_the_steps_of_a_loop_that_died(tiny_config: Path, tmp_path: Path) -> None:
    """A loop at step 12 and its service were killed; the rows of its steps are there again."""
    run, folder = inputs(tiny_config), tmp_path / "served"
    model = run.new_model()
    with service(run, folder) as address:
        train(run, SelectionClient(model, address), model, steps=12)
        again = SelectionClient(model, address, step=12)
        train(run, again, model)
    assert [row["step"] for row in rows(folder)] == list(range(STEPS))
    assert all(len(row["indices"]) == 8 for row in rows(folder))
    assert summary_of(folder)["final_accuracy"] is None
    refused = rhoctl("report", folder)
    assert refused.code == 2
    assert "selection.log(step, accuracy=…)" in refused.err


def test_an_export_wants_no_accuracy(tiny_config: Path, tmp_path: Path) -> None:
    """It tells of points; a report compares accuracies, and says how to give them."""
    run, folder = inputs(tiny_config), tmp_path / "run"
    model = run.new_model()
    train(run, SelectionClient(model, local=True, config=tiny_config, run_dir=folder), model)
    made("export", folder, "--out", tmp_path / "points.parquet")
    assert pq.read_table(tmp_path / "points.parquet").num_rows == 400
    refused = rhoctl("report", folder)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "has no accuracy in eval.jsonl" in refused.err
    assert "selection.log(step, accuracy=…)" in refused.err


def test_steps_that_a_folder_has_not_seen_have_no_indices(
    tiny_config: Path, tmp_path: Path
) -> None:
    run, folder = inputs(tiny_config), tmp_path / "run"
    model = run.new_model()
    selection = SelectionClient(model, local=True, config=tiny_config, step=3, run_dir=folder)
    selection.log(3, accuracy=0.1)
    train(run, selection, model)
    selection.log(STEPS, accuracy=0.5)
    assert [len(row["indices"]) for row in rows(folder)] == [0] * 3 + [8] * (STEPS - 3)
    made("report", folder, "--out", tmp_path / "page.html")


def test_a_loop_that_ends_early_has_a_summary(tiny_config: Path, tmp_path: Path) -> None:
    """Though nothing is closed, as after an exception. Its folder is a new one below runs/."""
    code = f"""
from rhoselect.client import SelectionClient
from rhoselect.models import mlp
model = mlp(input_shape=(1, 16, 16), classes={CLASSES}, width=32)
selection = SelectionClient(model, local=True, config={str(tiny_config)!r})
for batch in selection:
    selection.step(model)
    if batch.step == 4:
        raise ValueError("the loop's own")
"""
    process = Process("-c", code)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert errors.endswith("ValueError: the loop's own\n")
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("loop-")
    assert summary_of(folder)["steps"] == 5
    assert [row["step"] for row in rows(folder)] == list(range(5))


def test_points_of_the_loop_s_own(tmp_path: Path) -> None:
    """The report tells what is known; an export has no points to tell of."""
    images, labels = patches()["train"]
    data = TensorDataset(torch.from_numpy(images).float() / 100, torch.from_numpy(labels))
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, CLASSES))
    config = {
        "selection": {"n_b": 8, "n_B": 64, "chunk": 16},
        "trainer": {"steps": 6},
        "scorer": {"precision": "fp32"},
    }
    where: dict[str, Any] = {"local": True, "config": config, "data": data}
    il = torch.zeros(400)
    with SelectionClient(model, **where, irreducible_losses=il, run_dir="own") as selection:
        for batch in itertools.islice(selection, 4):
            selection.step(model)
            selection.log(batch.step + 1, accuracy=0.25, lr=1e-3)
    summary = summary_of(tmp_path / "own")
    assert (summary["steps"], summary["final_accuracy"]) == (4, 0.25)
    forward = 2 * 256 * CLASSES
    assert summary["flops"]["score"] == 4 * 64 * forward
    assert summary["flops"]["train"] == 3 * 4 * 8 * forward
    told = made("report", "own", "--out", "page.html").out
    assert "own: its irreducible losses were given by its loop; the seconds" in told
    refused = rhoctl("export", "own", "--out", "points.parquet")
    assert refused.code == 2
    assert "its points were given by the loop" in refused.err


def test_mistakes_leave_no_folder(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config)
    model, here = run.new_model(), {"local": True, "config": tiny_config}
    with pytest.raises(UserError):
        SelectionClient(nn.Linear(2, 2), **here)
    SelectionClient(model, **here, run_dir=None).close()
    assert not (tmp_path / "runs").exists()
    SelectionClient(model, **here, run_dir="run").close()
    other = {"local": True, "config": {**run.config.model_dump(), "seed": 1}}
    (tmp_path / "file").touch()
    for words, arguments in (
        ("run_dir run: exists, allowed a new folder", {**here, "run_dir": "run"}),
        ("another configuration .seed.", {**other, "run_dir": "run", "step": 1}),
        ("cannot be made: .* run_dir=None", {**here, "run_dir": "file/run"}),
        ("got run_dir 'run' with an address", {"address": "127.0.0.1:1", "run_dir": "run"}),
    ):
        with pytest.raises((RunFolderError, UserError), match=words):
            SelectionClient(model, **arguments)


def test_mistakes_in_what_is_logged(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config)
    selection = SelectionClient(run.new_model(), local=True, config=tiny_config, run_dir="run")
    for words, step, values in (
        ("step: got 1, allowed 0 to 0", 1, {"accuracy": 0.5}),
        ("accuracy: got 91.3, allowed a share from 0 to 1", 0, {"accuracy": 91.3}),
        ("allowed at least one", 0, {}),
        ("any name but step and seconds", 0, {"seconds": 1.0}),
        ("no number", 0, {"accuracy": "high"}),
    ):
        with pytest.raises(UserError, match=words):
            selection.log(step, **values)
    for _ in range(2):  # a call that is repeated
        selection.log(0, accuracy=0.25)
    selection.close()
    [line] = (tmp_path / "run" / "eval.jsonl").read_text().splitlines()
    assert json.loads(line)["accuracy"] == 0.25
