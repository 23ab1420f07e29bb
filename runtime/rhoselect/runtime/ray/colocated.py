"""Several ``trainer.devices`` of a cluster that all score and train, without scorers and queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray

from rhoselect.hardware import releases
from rhoselect.inputs import RunInputs
from rhoselect.runtime.ray import placement
from rhoselect.runtime.ray.actors import Endpoints
from rhoselect.runtime.ray.cluster import POLL_S, ray_session, told
from rhoselect.runtime.ray.ranks import Trainers
from rhoselect.runtime.ray.run import RanksRun
from rhoselect.runtime.run import Watch
from rhoselect.trainer.resuming import how_to_resume
from rhoselect.trainer.runfolder import RunFolder


def run_ranks(inputs: RunInputs, folder: RunFolder, watch: Watch) -> dict[str, Any]:
    """Run to the end and return the summary. Raises RunError, naming the rank, if one is lost."""
    config = inputs.config
    folder = replace(folder, path=folder.path.absolute())
    with ray_session(config.cluster.address, workers=0):
        endpoints = Endpoints(None, None, folder.path, releases())
        trainers = Trainers(config, folder, endpoints, workers=0)
        run = RanksRun(folder, trainers.lead)
        try:
            with watch(run), told(folder, how_to_resume(folder.path)):
                placement.wait_for_actors(config, trainers.actors)
                done = trainers.run()
                while not ray.wait([done], timeout=POLL_S)[0]:
                    run.refresh()
                summary: dict[str, Any] = ray.get(done)
                return summary
        finally:
            trainers.end()
