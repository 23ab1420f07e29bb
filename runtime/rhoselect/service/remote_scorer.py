"""A scorer outside a run's cluster: it attaches to the run and scores until the run ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import grpc

from rhoselect import config as configuration
from rhoselect.compute import keep_memory
from rhoselect.config import Config
from rhoselect.devices import scorer_device
from rhoselect.errors import ConfigError, FencedError, RhoError, RunError, ServiceError, listed
from rhoselect.hardware import PROBE, check_alike, releases
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.inputs.probe import scoring_facts
from rhoselect.metrics import Metrics
from rhoselect.protos import snapshots_pb2 as pb
from rhoselect.protos.snapshots_pb2_grpc import SnapshotsStub
from rhoselect.queue.redis import check_server
from rhoselect.runtime.queue_address import open_queue, queue_url
from rhoselect.scorer.build import build_scorer
from rhoselect.scorer.loop import Scorer
from rhoselect.service.errors import status_to_errors
from rhoselect.snapshots.grpc import GrpcStore

FILES = ("password_file", "tls_ca", "tls_cert", "tls_key")
"""Keys of [queue] that come from --set or the environment here, never from the run."""

HERE = "this machine"
BEAT_S = 2.0  # between calls that ask whether the run is running, and for the number of lanes
MISSED = 3  # calls without an answer, after which the run is taken to have ended


def attach(
    channel: grpc.Channel, who: str, overrides: Iterable[str]
) -> tuple[pb.AttachResponse, RunInputs]:
    """Attach to the run of the service ``who``. Returns its answer, and its inputs on this machine.

    ``overrides`` give the paths of files on this machine, as data.path=DIR. Raises ConfigError for
    keys that would change scores and for inputs that differ from the run's, ServiceError if the
    service cannot be reached.
    """
    with status_to_errors(who):
        attached = _stub(channel).Attach(pb.AttachRequest())
    ours = releases()
    theirs = {name: value for name, value in attached.facts.items() if name in ours}
    check_alike(HERE, ours, "the run", theirs)
    inputs = open_inputs(_local_config(attached, overrides))
    if inputs.sha256 != attached.inputs_sha256:
        raise ConfigError(
            "data.path, il.table: hold other data or irreducible losses than the run's, or"
            " model.factory makes other frozen parameters; allowed copies of the same; name them"
            " with --set"
        )
    return attached, inputs


def score(
    channel: grpc.Channel,
    attached: pb.AttachResponse,
    inputs: RunInputs,
    stop: threading.Event,
) -> int:
    """Score for a run until it ends, or ``stop`` is set. Returns the points scored. Raises
    HardwareError if this machine is not like those of the run."""
    keep_memory()
    config, session, metrics = inputs.config, attached.session, Metrics("scorer")
    url = queue_url(config.queue)
    if url is None:
        raise ServiceError(
            'queue.url: the service gave a run with "embedded", allowed one with a server that this'
            " machine can reach"
        )
    check_server(url)
    queue = open_queue(config, url, session.run_id, session.generation)
    snapshots = GrpcStore(channel, session.run_id, session.generation)
    slot, device = attached.slot, scorer_device(config, attached.slot, beside_trainer=False)
    try:
        scorer = build_scorer(inputs, device, slot, attached.lanes, queue, snapshots, metrics)
        attached = _when_ready(_stub(channel), attached, stop)
        if not stop.is_set():
            facts = scoring_facts(inputs, scorer.weights.replica)
            check_alike(HERE, facts, "the run", attached.facts)
        with _beating(_stub(channel), attached, scorer, stop):
            try:
                scorer.run(stop)
            except (ServiceError, FencedError) as error:
                logging.warning("leaving: %s", error)
        with suppress(RunError):  # let other scorers claim its tickets at once
            scorer.release()
    finally:
        queue.disconnect()
    return metrics.points_scored()


def _stub(channel: grpc.Channel) -> SnapshotsStub:
    return SnapshotsStub(channel)  # type: ignore[no-untyped-call]


def _when_ready(
    stub: SnapshotsStub, attached: pb.AttachResponse, stop: threading.Event
) -> pb.AttachResponse:
    """The service's answer once a process of the run is ready to score, or ``stop`` is set."""
    while PROBE not in attached.facts and not stop.wait(BEAT_S):
        with status_to_errors("the run"):
            attached = stub.Attach(pb.AttachRequest(slot=attached.slot))
    return attached


def _local_config(attached: pb.AttachResponse, overrides: Iterable[str]) -> Config:
    """The run's configuration with the paths of this machine. Raises ConfigError."""
    theirs = configuration.from_json(attached.config_json)
    base = theirs.model_dump()
    base["queue"] |= dict.fromkeys(FILES)
    ours = configuration.apply(base, overrides)
    if changed := theirs.changed_keys(ours):
        raise ConfigError(
            f"--set: got {listed(changed, 3)}, which scores depend on, allowed paths and addresses"
            " on this machine: data.path, il.table, il.weights, svp.table, model.weights,"
            " queue.url and so on"
        )
    return ours


@contextmanager
def _beating(
    stub: SnapshotsStub, attached: pb.AttachResponse, scorer: Scorer, stop: threading.Event
) -> Iterator[None]:
    """Ask regularly, within the block, whether the run is running; set ``stop`` when it is not."""

    def beat() -> None:
        now, missed = attached, 0
        while now.session == attached.session and missed < MISSED and not stop.wait(BEAT_S):
            try:
                with status_to_errors("the run"):
                    now = stub.Attach(pb.AttachRequest(slot=now.slot))
                scorer.share(now.slot, now.lanes)
                missed = 0
            except RhoError:
                missed += 1
        stop.set()

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
