"""The sessions of one run folder: each a new generation, with a queue, snapshots and scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from rhoselect.config import Config
from rhoselect.devices import service_device
from rhoselect.inputs import RunInputs
from rhoselect.inputs.probe import scoring_facts
from rhoselect.metrics import Metrics
from rhoselect.protos import selection_pb2 as pb
from rhoselect.queue import SelectionQueue
from rhoselect.queue.memory import MemoryQueue
from rhoselect.ranks.loops import check_share
from rhoselect.scorer.build import build_idle_scorer, build_scorer
from rhoselect.scorer.loop import Scorer
from rhoselect.selector.build import build_session
from rhoselect.selector.start import Start, check_start
from rhoselect.service.blobs import to_specs
from rhoselect.service.selection import Open, Opened
from rhoselect.service.served import Backends, ServedRun
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.hardware import agree
from rhoselect.trainer.own_loop import LoopRecords
from rhoselect.trainer.runfolder import RunFolder

MakeBackends = Callable[[RunFolder, int], AbstractContextManager[Backends]]
"""Makes the queue, snapshots and scorers of a generation: (folder, number of scorers)."""


@contextmanager
def in_process(config: Config, folder: RunFolder, workers: int) -> Iterator[Backends]:
    """Backends in this process, which does all the scoring."""
    assert workers == 0, "only this process scores"
    queue = MemoryQueue(config.queue.lease_s)
    yield Backends(queue, LocalStore(), folder, status_queue=queue)


def sessions(inputs: RunInputs, run: ServedRun, make_backends: MakeBackends) -> Open:
    """A function that opens sessions in the folder of ``run`` and shows them in its status."""
    config, metrics = inputs.config, Metrics()
    metrics.serve(config.metrics, run.folder.path, "trainer")

    @contextmanager
    def open_session(step: int, ranks: int) -> Iterator[Opened]:
        check_share(config.selection.n_b, ranks)
        start = Start(step)
        check_start(inputs, start)
        with ExitStack() as stack:
            with run.changing:
                folder, count = RunFolder.resume(run.folder.path), run.count
                backends = stack.enter_context(make_backends(folder, count))
                stack.callback(backends.snapshots.close)
                queue, snapshots = backends.queue, backends.snapshots
                scorer = _scorer(inputs, folder, count, queue, snapshots, metrics)
                ended = step == config.trainer.steps  # its records are complete
                recorder = None if ended else LoopRecords(inputs, folder, step, count)
                session = build_session(
                    inputs, scorer, queue, snapshots, backends.fence, count, start, recorder
                )
                stack.callback(session.close)
                stack.enter_context(run.watching(folder, session, backends))
            answer = pb.OpenRunResponse(
                session=pb.Session(run_id=folder.run_id, generation=folder.generation),
                steps=config.trainer.steps,
                layout=to_specs(session.layout),
                needs_losses=session.needs_losses,
                fingerprint=inputs.dataset.fingerprint,
                first_index=inputs.train.start,
                points=len(inputs.train),
                config_json=config.model_dump_json(),
                frozen=inputs.frozen.hashes if session.layout else {},
            )
            yield answer, session

    return open_session


def _scorer(
    inputs: RunInputs,
    folder: RunFolder,
    workers: int,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    metrics: Metrics,
) -> Scorer:
    """The scorer in this process, which must have the bits of the ``workers`` others, if it has the
    device that scores."""
    config, device = inputs.config, service_device(inputs.config, workers)
    if device is None:
        return build_idle_scorer(inputs, workers, queue, snapshots, metrics)
    lanes = config.lanes(workers)
    scorer = build_scorer(inputs, device, workers, lanes, queue, snapshots, metrics)
    agree(folder, "the service", scoring_facts(inputs, scorer.weights.replica))
    return scorer
