"""The sessions of one run folder: each a new generation, with a queue, snapshots and scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from rhoselect.config import Config
from rhoselect.launch.display import Show
from rhoselect.launch.prepared import Prepared
from rhoselect.launch.service.blobs import to_specs
from rhoselect.launch.service.building import build_session
from rhoselect.launch.service.selection import Open, Opened
from rhoselect.launch.service.session import check_first_step
from rhoselect.metrics import Metrics
from rhoselect.protos import selection_pb2 as pb
from rhoselect.queue import SelectionQueue
from rhoselect.queue.memory import MemoryQueue
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.ground import Fence
from rhoselect.trainer.runfolder import RunFolder

Ends = tuple[SelectionQueue, SnapshotStore, Fence]
Backends = Callable[[RunFolder], AbstractContextManager[Ends]]
"""Makes a generation's queue and snapshot store, with scorers at their other ends if there are any,
and what tells whether it may go on."""


@contextmanager
def in_process(config: Config, folder: RunFolder) -> Iterator[Ends]:
    """Without other scorers than this process."""
    yield MemoryQueue(config.queue.lease_s), LocalStore(), folder


def sessions(prepared: Prepared, path: Path, workers: int, backends: Backends, show: Show) -> Open:
    """What opens sessions in the run folder ``path``."""
    config, metrics = prepared.config, Metrics()
    metrics.serve(config.metrics, path, "trainer")

    @contextmanager
    def open_session(step: int) -> Iterator[Opened]:
        check_first_step(config, prepared.scoring, prepared.dataset.classes, step)
        with ExitStack() as stack:
            folder = RunFolder.resume(path)
            queue, snapshots, fence = stack.enter_context(backends(folder))
            stack.callback(snapshots.close)
            session = build_session(prepared, fence, queue, snapshots, metrics, workers, step)
            stack.callback(session.close)
            show(session)
            answer = pb.OpenRunResponse(
                session=pb.Session(run_id=folder.run_id, generation=folder.generation),
                steps=config.trainer.steps,
                layout=to_specs(session.layout),
                needs_losses=session.needs_losses,
                fingerprint=prepared.dataset.fingerprint,
                first_index=prepared.train.start,
                points=len(prepared.train),
                config_json=config.model_dump_json(),
            )
            yield answer, session

    return open_session
