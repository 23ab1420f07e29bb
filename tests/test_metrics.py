"""The metrics of a process: true numbers, in exposition format, where Prometheus finds them."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rhoselect import config as configuration
from rhoselect.config.operation import MetricsConfig
from rhoselect.errors import ConfigError, FencedError
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics, announced, check_endpoint
from rhoselect.queue.memory import MemoryQueue
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.build import build_trainer, run_trainer
from rhoselect.trainer.runfolder import RunFolder

ON = MetricsConfig()
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Scrape:
    """A scraped endpoint: sample values by name and labels, and the type of every family."""

    samples: dict[tuple[str, Labels], float]
    types: dict[str, str]

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]


def scrape(address: str) -> Scrape:
    with urlopen(f"http://{address}/metrics", timeout=20) as response:
        text = response.read().decode()
    families = list(text_string_to_metric_families(text))
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples
    }
    return Scrape(samples, {f.name: f.type for f in families})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, fast_bf16: bool) -> Scrape:
    """The metrics of a run of 20 steps: n_b 8, n_B 64, chunks of 16, an evaluation every 10."""
    inputs = open_inputs(configuration.load(tiny_config, ["scorer.precision=auto"]))
    folder = RunFolder.create(tmp_path_factory.mktemp("metrics") / "run", inputs.config)
    queue, snapshots, metrics = MemoryQueue(60), LocalStore(), Metrics()
    address = metrics.serve(ON, folder.path, "trainer")
    trainer = build_trainer(inputs, folder, queue, snapshots, metrics, workers=0)
    run_trainer(inputs, folder, trainer, workers=0)
    return scrape(address)


def test_counts_of_a_run_are_exact(run: Scrape) -> None:
    assert run("rho_scored_points_total") == 20 * 64
    assert run("rho_claims_total") == 20 * 4
    assert run("rho_pushes_total", outcome="accepted") == 20 * 4
    assert run("rho_rejected_points_total") == 0
    assert run("rho_expired_leases_total") == 0
    assert run("rho_last_step") == 20
    assert run("rho_step_seconds_count") == 20
    assert run("rho_selection_ratio") == 8 / 64
    assert run("rho_selected_staleness_steps_count") == 20 * 8
    assert run("rho_selected_staleness_steps_bucket", le="0.0") == 20 * 8
    assert run("rho_selected_staleness_steps_sum") == 0
    assert run("rho_snapshot_publish_seconds_count") == 20, "none after the last step"
    assert run("rho_snapshot_fetch_seconds_count") == run("rho_snapshot_swap_seconds_count") == 20
    assert run("rho_fenced_calls_total") == 0
    assert run("rho_trainer_generation") == 1


def test_gauges_of_a_run_are_true(run: Scrape, fast_bf16: bool) -> None:
    assert run("rho_queue_points") == 4 * 8, "four chunks, each pushed its best n_b"
    assert 0 < run("rho_test_accuracy") <= 1
    itemsize = 2 if fast_bf16 else 4
    parameters = 256 * 32 + 32 + 32 * 32 + 32 + 32 * 4 + 4
    assert run("rho_snapshot_publish_bytes_total") == 20 * parameters * itemsize
    assert run("rho_snapshot_fetch_bytes_total") == 20 * parameters * itemsize
    assert run("rho_queue_oldest_version") == 20
    assert run("rho_train_loss") > 0
    for name in ("rho_last_step_timestamp_seconds", "rho_last_checkpoint_timestamp_seconds"):
        assert time.time() - 600 < run(name) <= time.time()
    phases = ("read", "load", "forward", "score", "push")
    phases += ("publish", "train", "evaluate", "checkpoint")
    assert all(run("rho_busy_seconds_total", phase=phase) > 0 for phase in phases)
    busy = sum(run("rho_busy_seconds_total", phase=phase) for phase in ("train", "publish"))
    assert busy < run("rho_step_seconds_sum")


def test_names_and_labels_keep_to_the_contract(run: Scrape) -> None:
    """Prefix, base units, and labels of which there are few, never one a point or a version."""
    assert all(name.startswith("rho_") for name in run.types)
    assert "unknown" not in run.types.values()
    labelled = {label for name, pairs in run.samples for label, _ in pairs if "build" not in name}
    assert labelled == {"outcome", "phase", "reason", "state", "le"}, "no audits, which have a lag"
    assert not {name for name in run.types if name.endswith(("_ms", "_milliseconds", "_mb"))}


def test_staleness_falls_into_buckets_of_powers_of_two(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.observe_step(steps=5, seconds=0.01, staleness=3, n_b=32, n_B=320)
    metrics.observe_step(steps=6, seconds=0.01, staleness=100, n_b=32, n_B=320)
    got = scrape(metrics.serve(ON, tmp_path, "trainer"))
    name = "rho_selected_staleness_steps_bucket"
    bounds = ("0.0", "1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "128.0", "+Inf")
    assert [got(name, le=bound) for bound in bounds] == [0, 0, 0, 32, 32, 32, 32, 32, 64, 64]
    assert got("rho_selected_staleness_steps_sum") == 32 * 103
    assert got("rho_last_step") == 6


def test_a_process_exports_what_its_role_has(tmp_path: Path) -> None:
    """A scorer's step of 0, say, would be the lowest of a run's for ever."""
    trainer, scorer, driver = (
        scrape(Metrics(role).serve(ON, tmp_path, role)).types
        for role in ("trainer", "scorer", "driver")
    )
    assert "rho_scored_points" in trainer.keys() & scorer.keys()
    assert "rho_last_step" in trainer.keys() - scorer.keys()
    assert driver.keys() & trainer.keys() == {
        "rho_build_info",
        "rho_started_timestamp_seconds",
    }


def test_a_slot_that_is_gone_is_not_reported_any_more(tmp_path: Path) -> None:
    metrics = Metrics("driver")
    address = metrics.serve(ON, tmp_path, "driver")
    metrics.observe_workers({0: "running", 1: "silent"}, {0: 0, 1: 3})
    got = scrape(address)
    assert got("rho_worker_state", slot="1", rho_worker_state="silent") == 1
    assert got("rho_worker_state", slot="1", rho_worker_state="running") == 0
    assert got("rho_worker_restarts_total", slot="1") == 3
    metrics.observe_workers({0: "running"}, {0: 1})
    got = scrape(address)
    assert got("rho_worker_restarts_total", slot="0") == 1
    assert ("rho_worker_restarts_total", (("slot", "1"),)) not in got.samples


def test_a_trainer_that_was_replaced_counts_that_it_was_refused(
    tiny_config: Path, tmp_path: Path
) -> None:
    inputs = open_inputs(configuration.load(tiny_config))
    folder, metrics = RunFolder.create(tmp_path / "run", inputs.config), Metrics()
    trainer = build_trainer(inputs, folder, MemoryQueue(60), LocalStore(), metrics, workers=0)
    newer = RunFolder.resume(folder.path)
    with pytest.raises(FencedError):
        run_trainer(inputs, folder, trainer, workers=0)
    got = scrape(metrics.serve(ON, folder.path, "trainer"))
    assert got("rho_fenced_calls_total") == 1
    assert got("rho_trainer_generation") == newer.generation - 1


def test_the_endpoint_can_be_found_and_is_on_loopback_only(tmp_path: Path) -> None:
    run = tmp_path / "night-3"
    address = Metrics("scorer").serve(ON, run, "3")
    Metrics().serve(ON, run, "trainer")
    folder = run / "logs" / "metrics"
    assert sorted(p.name for p in folder.iterdir()) == ["3.json", "trainer.json"]
    (group,) = json.loads((folder / "3.json").read_text())
    labels = {"run": "night-3", "role": "scorer", "worker": "3"}
    assert group == {"targets": [address], "labels": labels}
    host, port = address.split(":")
    assert host == "127.0.0.1"
    assert ("rho_claims_total", ()) in scrape(group["targets"][0]).samples
    for elsewhere in ("127.0.0.2", "::1"):  # bound to any other address it would answer there too
        with pytest.raises(OSError), socket.create_connection((elsewhere, int(port)), timeout=5):
            pass


def ended_by(error: BaseException, config: MetricsConfig, run: Path) -> None:
    with announced(config, run):
        Metrics().serve(config, run, "trainer")
        raise error


def test_many_runs_are_found_in_one_folder_until_they_end_in_order(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    config = MetricsConfig(discovery_dir=str(shared))
    check_endpoint(config)
    one, other, failed = tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c" / "run"
    with pytest.raises(RuntimeError):
        ended_by(RuntimeError(), config, failed)
    with announced(config, one):
        Metrics().serve(config, one, "trainer")
        Metrics("scorer").serve(config, one, "0")
        with announced(config, other):
            Metrics().serve(config, other, "trainer")
            assert len(list(shared.iterdir())) == 4
        assert len(list(shared.iterdir())) == 3
        first = {p: p.read_text() for p in shared.iterdir()}
        Metrics("scorer").serve(config, one, "0")
        changed = [p for p, text in first.items() if p.read_text() != text]
        assert len(changed) == 1, "a scorer that is started again takes its own place"
    (left,) = shared.iterdir()
    (path,) = (failed / "logs" / "metrics").iterdir()
    assert left.read_text() == path.read_text(), "what failed is still to be seen as down"
    assert not list((one / "logs" / "metrics").iterdir())


def test_an_interrupted_run_is_forgotten(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ended_by(KeyboardInterrupt(), ON, tmp_path)
    assert not list((tmp_path / "logs" / "metrics").iterdir())


def test_listening_everywhere_is_announced_by_an_address_of_this_machine(tmp_path: Path) -> None:
    address = Metrics().serve(MetricsConfig(host="0.0.0.0"), tmp_path, "trainer")
    assert address.split(":")[0] != "0.0.0.0"
    assert ("rho_last_step", ()) in scrape(address).samples


def test_metrics_that_are_off_are_neither_served_nor_announced(tmp_path: Path) -> None:
    assert Metrics().serve(MetricsConfig(port=-1), tmp_path, "trainer") is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"metrics\.discovery_dir .*cannot be made"):
        check_endpoint(MetricsConfig(discovery_dir=str(tmp_path / "file" / "folder")))


def test_two_processes_worth_of_metrics_do_not_mix(tmp_path: Path) -> None:
    one, other = Metrics("scorer"), Metrics("scorer")
    one.claims.inc(3)
    other.claims.inc(4)
    assert scrape(one.serve(ON, tmp_path, "0"))("rho_claims_total") == 3
    assert scrape(other.serve(ON, tmp_path, "1"))("rho_claims_total") == 4
