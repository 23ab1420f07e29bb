"""The Prometheus endpoint: true numbers, in exposition format, on loopback only."""

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
from rhoselect.compute import has_fast_bf16
from rhoselect.launch.wiring import build_trainer, prepare, run_trainer
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.runfolder import RunFolder

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
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Scrape:
    """The metrics of a run of 20 steps: n_b 8, n_B 64, chunks of 16, an evaluation every 10."""
    prepared = prepare(configuration.load(tiny_config))
    folder = RunFolder.create(tmp_path_factory.mktemp("metrics") / "run", prepared.config)
    queue, snapshots, metrics = MemoryQueue(60), LocalStore(), Metrics()
    address = metrics.serve(0, "trainer", folder.path / "logs" / "metrics")
    trainer = build_trainer(prepared, folder, queue, snapshots, metrics, workers=0)
    run_trainer(prepared, folder, trainer, workers=0)
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


def test_gauges_of_a_run_are_true(run: Scrape) -> None:
    assert run("rho_queue_points") == 4 * 8, "four chunks, each pushed its best n_b"
    assert 0 < run("rho_test_accuracy") <= 1
    itemsize = 2 if has_fast_bf16("cpu") else 4
    parameters = 256 * 32 + 32 + 32 * 32 + 32 + 32 * 4 + 4
    assert run("rho_snapshot_publish_bytes_total") == 20 * parameters * itemsize
    for name in ("rho_last_step_timestamp_seconds", "rho_last_checkpoint_timestamp_seconds"):
        assert time.time() - 600 < run(name) <= time.time()
    phases = ("read", "forward", "load", "publish", "train", "evaluate", "checkpoint")
    assert all(run("rho_busy_seconds_total", phase=phase) > 0 for phase in phases)
    busy = sum(run("rho_busy_seconds_total", phase=phase) for phase in ("train", "publish"))
    assert busy < run("rho_step_seconds_sum")


def test_names_and_labels_keep_to_the_contract(run: Scrape) -> None:
    """Prefix, base units, and labels of which there are few, never one a point or a version."""
    assert all(name.startswith("rho_") for name in run.types)
    assert "unknown" not in run.types.values()
    labelled = {label for name, pairs in run.samples for label, _ in pairs if "build" not in name}
    assert labelled == {"outcome", "phase", "reason", "le"}, "no audits here, which have a lag"
    assert not {name for name in run.types if name.endswith(("_ms", "_milliseconds", "_mb"))}


def test_staleness_falls_into_buckets_of_powers_of_two(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.observe_step(steps=5, seconds=0.01, staleness=3, n_b=32, n_B=320)
    metrics.observe_step(steps=6, seconds=0.01, staleness=100, n_b=32, n_B=320)
    got = scrape(metrics.serve(0, "trainer", tmp_path))
    name = "rho_selected_staleness_steps_bucket"
    bounds = ("0.0", "1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "128.0", "+Inf")
    assert [got(name, le=bound) for bound in bounds] == [0, 0, 0, 32, 32, 32, 32, 32, 64, 64]
    assert got("rho_last_step") == 6


def test_the_endpoint_can_be_found_and_is_on_loopback_only(tmp_path: Path) -> None:
    metrics, other = Metrics(), Metrics()
    address = metrics.serve(0, "3", tmp_path / "metrics")
    other.serve(0, "trainer", tmp_path / "metrics")
    assert sorted(p.name for p in (tmp_path / "metrics").iterdir()) == ["3.json", "trainer.json"]
    (group,) = json.loads((tmp_path / "metrics" / "3.json").read_text())
    assert group == {"targets": [address], "labels": {"worker": "3"}}
    host, port = address.split(":")
    assert host == "127.0.0.1"
    assert ("rho_last_step", ()) in scrape(group["targets"][0]).samples
    for elsewhere in ("127.0.0.2", "::1"):  # bound to any other address it would answer there too
        with pytest.raises(OSError), socket.create_connection((elsewhere, int(port)), timeout=5):
            pass


def test_two_processes_worth_of_metrics_do_not_mix(tmp_path: Path) -> None:
    one, other = Metrics(), Metrics()
    one.claims.inc(3)
    other.claims.inc(4)
    assert scrape(one.serve(0, "0", tmp_path))("rho_claims_total") == 3
    assert scrape(other.serve(0, "1", tmp_path))("rho_claims_total") == 4
