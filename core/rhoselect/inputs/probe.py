"""The facts of a process that scores, its probe included."""

from __future__ import annotations

import hashlib

import torch

from rhoselect.compute import enough_memory, repeatable, threads
from rhoselect.hardware import PROBE, Facts, facts_of
from rhoselect.inputs.run_inputs import RunInputs, SelectionInputs
from rhoselect.models.replica import Replica


def scoring_facts(inputs: SelectionInputs, replica: Replica) -> Facts:
    """Releases and hardware of this process, and the probe: the hash of the losses of the first
    chunk of the data set under the first weights.

    Call it before ``replica`` loads other weights. There is no probe for points and a model of a
    loop's own, whose first weights differ from session to session. Torch's random state is kept.
    """
    device, config = replica.device, inputs.config
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    tf32 = config.compute.tf32
    with repeatable(device, tf32), threads(config.scorer.threads), forked:
        if not isinstance(inputs, RunInputs):
            return facts_of(device)
        batch = inputs.train.read(inputs.train.first(config.selection.chunk), device)
        with enough_memory("the forward at start"):
            losses = replica(batch).losses.cpu().numpy()
        return {**facts_of(device), PROBE: hashlib.sha256(losses.data).hexdigest()}
