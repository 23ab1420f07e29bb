"""The law's "one kind of hardware": a mix is refused, and a resume elsewhere is said."""

from __future__ import annotations

import html
import json
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from rhoselect.config import load
from rhoselect.errors import HardwareError, RunFolderError, StorageError
from rhoselect.hardware import PROBE, Facts, check_alike, facts_of
from rhoselect.inputs import open_inputs
from rhoselect.inputs.probe import scoring_facts
from rhoselect.runtime.ray.fleet import Fleet
from rhoselect.trainer import hardware
from rhoselect.trainer.runfolder import RunFolder
from support import Result, hashes, made, rhoctl

CPU = torch.device("cpu")
H100 = {
    "rhoselect": "1.0",
    "torch": "2.13.0+cu130",
    "device": "NVIDIA H100 80GB HBM3",
    "multiprocessors": "132",
    "capability": "9.0",
    "slice (MIG)": "no",
    "driver": "580.65.06",
    "CUDA": "13.0",
    "cuBLAS": "130002",
    "cuDNN": "91300",
    "TF32": "ieee, tf32, tf32",
    "environment": "CUBLAS_WORKSPACE_CONFIG=:4096:8",
    PROBE: "3f" * 32,
}
OTHERS = {
    "PCIe": {"device": "NVIDIA H100 PCIe", "multiprocessors": "114"},
    "slice": {"device": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "slice (MIG)": "yes"},
    "MPS": {"environment": "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50"},
    "driver": {"driver": "570.86.15"},
    "cuDNN": {"cuDNN": "91002"},
    "TF32": {"TF32": "tf32, tf32, tf32"},
    "probe": {PROBE: "77" * 32},
}


@pytest.mark.parametrize("changed", OTHERS.values(), ids=OTHERS)
def test_who_differs_in_what_is_one_line(changed: Facts) -> None:
    with pytest.raises(
        HardwareError, match=r"^scorer 3: got .*, allowed that of the trainer: "
    ) as (caught):
        check_alike("scorer 3", H100 | changed, "the trainer", H100)
    told, at = str(caught.value), str(caught.value).index("allowed")
    for name, value in changed.items():
        assert f"{name} {value!r}" in told[:at] and f"{name} {H100[name]!r}" in told[at:]
    assert "\n" not in told and ("model.factory" in told) == (PROBE in changed)
    check_alike("scorer 3", dict(H100), "the trainer", H100)


def test_a_gpu_and_a_cpu_differ_in_many_facts_of_which_a_few_are_named() -> None:
    with pytest.raises(HardwareError, match=r"and \d+ more") as caught:
        check_alike("scorer 0", facts_of(CPU), "the trainer", H100)
    assert len(str(caught.value)) < 1000


def test_facts_of_a_cpu_name_what_changes_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    before = facts_of(CPU)
    assert before["device"] and before["capability"] and before["torch"] == torch.__version__
    assert before == facts_of(CPU)
    torch.set_num_threads(1)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    after = facts_of(CPU)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"threads", "environment"}


def test_the_probe_is_that_of_weights_points_and_numerics(tiny_config: Path) -> None:
    def probe(*sets: str) -> str:
        inputs = open_inputs(load(tiny_config, sets))
        return scoring_facts(inputs, inputs.new_replica(CPU))[PROBE]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert probe() == probe("selection.lag=1", "scorer.prefetch=1")
    assert torch.equal(torch.get_rng_state(), before)
    others = [probe("seed=1"), probe("scorer.precision=bf16"), probe("selection.chunk=8")]
    assert len({probe(), *others}) == 4


@pytest.fixture
def folder(tmp_path: Path, tiny_config: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", load(tiny_config))


def test_all_that_score_in_a_generation_are_alike(folder: RunFolder) -> None:
    """Whoever comes first. Those of the next generation may be on other machines."""
    assert hardware.agreed(folder) is None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: hardware.agree(folder, f"scorer {n}", H100), range(64)))
    other = H100 | OTHERS["PCIe"]
    with pytest.raises(HardwareError, match=r"^scorer 64: got device .*, allowed that of scorer"):
        hardware.agree(folder, "scorer 64", other)
    first = hardware.agreed(folder)
    assert first is not None and first.facts == H100
    hardware.agree(RunFolder.resume(folder.path), "the trainer", other)


@pytest.mark.parametrize(
    "text", [b'{"who": ', b"\xff", b"[1]", b'{"who": "a", "facts": null}', b""]
)
def test_damaged_facts_of_its_generation_are_said(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(hardware, "WRITTEN_S", 0.1)
    (folder.path / "hardware").mkdir()
    (folder.path / "hardware" / "1.json").write_bytes(text)
    with pytest.raises(RunFolderError, match=r"^/.*1\.json: cannot be read, .* resume the run"):
        hardware.agree(folder, "the trainer", H100)
    shutil.rmtree(folder.path / "hardware")
    (folder.path / "hardware").touch()
    with pytest.raises(RunFolderError, match=r"^/.*hardware: is a file, .* rename it"):
        hardware.agree(folder, "the trainer", H100)


def test_facts_are_written_whole_or_not_at_all(folder: RunFolder) -> None:
    """A full disk, as a limit on the size of files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot be written .*; make room"):
            hardware.agree(folder, "the trainer", H100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((folder.path / "hardware").iterdir())
    hardware.agree(folder, "the trainer", H100)


def test_only_hardware_whose_steps_were_kept_counts(folder: RunFolder) -> None:
    """A resume on other hardware that ends before its first checkpoint leaves no step."""

    def resume(step: int, facts: Facts) -> hardware.Exactness:
        newest = RunFolder.resume(folder.path)
        hardware.agree(newest, "the trainer", facts)
        return hardware.begin(newest, step, training=facts)

    other = H100 | OTHERS["PCIe"]
    assert resume(0, H100).exact is True
    assert resume(500, H100).exact is True
    assert resume(700, other).reason == (
        "resumed at step 700 on other hardware: device 'NVIDIA H100 PCIe', multiprocessors '114'"
        " instead of device 'NVIDIA H100 80GB HBM3', multiprocessors '132'"
    )
    assert resume(700, H100).exact is True
    assert resume(700, other).exact is False
    assert resume(800, H100).exact is False
    assert hardware.exactness(folder.path).exact is False
    assert resume(0, other).exact is True


def test_a_trainer_on_other_hardware_than_its_scorers_counts_too(folder: RunFolder) -> None:
    cpu = {"device": "AMD EPYC", "threads": "1"}
    for step, trains in ((0, H100), (10, H100), (20, H100 | OTHERS["driver"])):
        newest = RunFolder.resume(folder.path)
        hardware.agree(newest, "the trainer", cpu)
        found = hardware.begin(newest, step, training=trains)
        assert found.exact is (step < 20)
    assert "trainer's driver '570.86.15' instead of trainer's driver '580.65.06'" in found.reason


def train(config: Path, run: Path, *sets: str) -> tuple[Result, dict[str, Any]]:
    """Train to the end, in a new folder or on in one."""
    flags = [word for item in sets for word in ("--set", item)]
    command = ["--resume"] if run.exists() else [config]
    result = made("train", *command, "--run-dir", run, *flags)
    return result, json.loads((run / "summary.json").read_text())


def change(run: Path, **facts: str) -> None:
    """Let the first steps of a run have been taken where these facts are others."""
    lines = [
        json.loads(line) for line in (run / "hardware" / "steps.jsonl").read_text().splitlines()
    ]
    lines[0]["facts"] |= facts
    (run / "hardware" / "steps.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )


@pytest.mark.parametrize("name", [PROBE, "device"])
def test_a_resume_on_other_hardware_is_said_and_the_run_stays_inexact(
    tiny_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    run = tmp_path / "run"
    _, summary = train(tiny_config, run)
    assert (summary["exact"], summary["inexact_because"]) == (True, None)
    _, same = train(tiny_config, run, "trainer.steps=30")
    assert same["exact"] is True and not caplog.text
    change(run, **{name: "another"})
    result, summary = train(tiny_config, run, "trainer.steps=40")
    how = "on the same hardware and releases, but " if name == PROBE else "on other hardware: "
    said = f"resumed at step 20 {how}"
    assert summary["exact"] is False and summary["inexact_because"].startswith(said)
    assert f": {name} " in summary["inexact_because"]
    assert f"is not exact: {said}" in result.out
    assert html.escape(said) in (run / "report.html").read_text()
    assert [record.getMessage() for record in caplog.records] == [
        f"{run}: is not exact: {summary['inexact_because']}"
    ]
    _, later = train(tiny_config, run, "trainer.steps=50")
    assert later["inexact_because"] == summary["inexact_because"]


def test_a_run_of_before_goes_on_and_cannot_be_compared(
    tiny_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    train(tiny_config, run)
    shutil.rmtree(run / "hardware")
    for steps in (30, 40):
        _, summary = train(tiny_config, run, f"trainer.steps={steps}")
        assert (summary["exact"], summary["inexact_because"]) == (
            None,
            "the hardware of its first steps is not known",
        )
    (record,) = caplog.records
    assert "before 20 were taken, so it cannot be compared" in record.getMessage()


DAMAGE = [b'{"step": 0, "gen', b'{"step": 0, "generation": 1}', b"\xff\xfe", b"[1]"]
DAMAGE += [b'{"step": 0, "generation": 1, "facts": null}', b""]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_facts_is_as_none(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    hardware.agree(folder, "the trainer", H100)
    steps = folder.path / "hardware" / "steps.jsonl"
    steps.write_bytes(damage)
    assert hardware.exactness(folder.path).exact is None
    assert hardware.begin(folder, 20, training=H100).exact is None
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{steps}: does not say")
    assert hardware.begin(folder, 30, training=H100).exact is None and len(caplog.records) == 1


def test_a_first_scorer_that_comes_to_other_hardware_is_refused_alone_once_training_has_begun(
    ray_session: None, folder: RunFolder
) -> None:
    """As where Ray starts it again on another machine. Before, it ends the run."""

    class Elsewhere:
        def run(self) -> None:
            raise HardwareError("other bits")

        def look(self, workers: int) -> tuple[int, int]:
            return 1, 0

        def stop(self) -> None:
            pass

    hardware.agree(folder, "the trainer", H100)
    actor = ray.remote(Elsewhere)
    fleet = Fleet(lambda *_: actor.options(num_cpus=0).remote(), lambda _: None, folder, "resume")
    fleet.scale(1)
    ray.wait(fleet.runs())
    with pytest.raises(HardwareError, match="other bits"):
        fleet.check(fleet.runs())
    hardware.begin(folder, 0, training=H100)
    fleet.check(fleet.runs())
    assert [(each.state, each.refused) for each in fleet.workers()] == [("refused", "other bits")]
    assert not fleet.runs()
    fleet.close()


@pytest.mark.matrix
def test_scorers_have_the_probe_of_the_trainer(
    ray_session: None, tiny_config: Path, tmp_path: Path
) -> None:
    """Or the run does not start, where a process has another."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    made("train", tiny_config, "--run-dir", run, "--workers", 2)
    first = hardware.agreed(RunFolder.newest(run))
    train(tiny_config, alone)
    other = hardware.agreed(RunFolder.newest(alone))
    assert first is not None and other is not None and first.facts == other.facts
    assert hashes(run) == hashes(alone)
    strange = {"who": "scorer 9", "facts": {**first.facts, PROBE: "77" * 32}}
    (run / "hardware" / "2.json").write_text(json.dumps(strange))
    resumed = ("--resume", "--run-dir", run, "--workers", 2, "--set", "trainer.steps=30")
    mixed = rhoctl("train", *resumed)
    assert mixed.code == 2 and mixed.err.count("\n") == 1, mixed.err
    assert "got probe" in mixed.err and "allowed that of scorer 9: probe '7777" in mixed.err
