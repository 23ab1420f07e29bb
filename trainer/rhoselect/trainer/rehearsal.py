"""Tries a run before it starts: output, scores and one training step, on the run's own devices.

One process does this. The driver does if all devices are CPUs or if it does everything itself: then
a bad model is refused before a folder is made. Otherwise the trainer's process does, as the driver
may see no GPU, and a context of its own there would take memory from the run.
"""

from __future__ import annotations

import copy
import logging

import torch

from rhoselect.compute import make_current, repeatable
from rhoselect.devices import own_device, ranks_are_actors, trainer_device, uses_gpu
from rhoselect.errors import ModelError, RhoError
from rhoselect.importing import one_line
from rhoselect.inputs import RunInputs
from rhoselect.inputs.checks import check_proxy, check_scores, check_task
from rhoselect.models.copying import copying
from rhoselect.ranks.blocks import blocks
from rhoselect.trainer.build import new_learner
from rhoselect.trainer.flops import proxy_share

WEAK = 0.1
"""A proxy of a smaller share of the model's FLOPs may select worse than at random."""


def check_start(inputs: RunInputs, workers: int, only: bool = False) -> None:
    """What the driver checks of a run with ``workers`` scorers, before it makes a folder. ``only``:
    no run follows, so that this process may use a GPU for it. Raises UserError."""
    only = only and torch.cuda.is_available()
    alone = workers == 0 and not ranks_are_actors(inputs.config)
    if alone or only or not uses_gpu(inputs.config):
        rehearse(inputs)
    elif inputs.config.cluster.address == "local":  # the actors see what is here
        trainer_device(inputs.config)
        own_device(inputs.config)


def rehearse_on_gpu(inputs: RunInputs) -> None:
    """What the trainer's process checks when it starts. Raises UserError."""
    if uses_gpu(inputs.config):
        rehearse(inputs)


def rehearse(inputs: RunInputs) -> None:
    """Try the run on the devices of the trainer's process, with networks that are thrown away: this
    changes no result. Raises UserError."""
    device, scoring = trainer_device(inputs.config), own_device(inputs.config)
    for each in (scoring, device):
        make_current(each)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _train_once(inputs, device)
        check_scores(inputs, scoring)


def _train_once(inputs: RunInputs, device: torch.device) -> None:
    """Raise ModelError unless the model, and a proxy, can take a step of n_b points. A GPU may have
    no room for the whole of a model that ranks divide: that takes no step before the run."""
    if inputs.config.trainer.parallel == "fsdp" and device.type == "cuda":
        blocks(inputs.new_model(), inputs.config.trainer.blocks)
        return
    factory, n_b = f"model.factory {inputs.config.model.factory}", inputs.config.selection.n_b
    factory += f", or scorer.proxy {proxy}" if (proxy := inputs.config.scorer.proxy) else ""
    parts = inputs.config.trainer.micro_batches
    learner = new_learner(inputs, device)
    batch = inputs.train.read(inputs.train.first(n_b), device)
    sample = inputs.train.read(inputs.train.first(2), device)
    check_task(inputs, learner.model, sample)
    if learner.scoring is not learner:
        check_proxy(inputs, learner.scoring.model, sample)
    try:
        with repeatable(device, inputs.config.compute.tf32):
            learner.update(batch, None, step=0).loss.item()
            learner.optimizers.check_resume(learner.model)
        learner.check_frozen("a training step changes frozen parameters")
        learner.model.eval()  # here some libraries add adapters to the weights
        learner.check_frozen("eval() changes frozen parameters of the model")
        with copying():
            copy.deepcopy(learner.model)  # as for the count of FLOPs at the end of the run
            copy.deepcopy(learner.scoring.model)
    except RhoError:
        raise
    except Exception as error:  # the user's code: anything may come out of it
        raise ModelError(
            f"{factory}: its model fails in a training step of {n_b} points"
            f"{f' in {parts} parts' if parts > 1 else ''}: {one_line(error)}"
        ) from error
    share = proxy_share(inputs.task, learner, sample)
    if share < WEAK:
        logging.warning(
            "scorer.proxy: its network has %.3f of the model's FLOPs a point; below %g of them"
            " runs got worse than by uniform batches: take a larger one",
            share,
            WEAK,
        )
