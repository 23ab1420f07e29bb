"""``--workers 0`` with several ``trainer.devices``: each has a process that scores its share of a
window and trains on its share of the batch. This process is the lead."""

from __future__ import annotations

from typing import Any

from rhoselect.inputs import RunInputs
from rhoselect.ranks.scores import SharedQueue
from rhoselect.runtime.leading import LeadControl
from rhoselect.runtime.local import run_here
from rhoselect.runtime.run import Watch
from rhoselect.trainer.runfolder import RunFolder


def run_colocated(inputs: RunInputs, folder: RunFolder, watch: Watch) -> dict[str, Any]:
    """Run to the end and return the summary. Raises RunError, naming the rank, if one is lost."""
    config, control = inputs.config, LeadControl()
    with control.leading(config, folder, "colocated") as group:
        queue = SharedQueue(config.queue.lease_s, group)
        return run_here(inputs, folder, watch, queue, control, group)
