"""Tries model and score function on two points, before a run starts.

One process of a run does this, on the device that scores: a model may have kernels for a GPU alone,
and a forward of a large one would take minutes elsewhere.
"""

from __future__ import annotations

import torch
from torch import nn

from rhoselect.compute import repeatable
from rhoselect.config import Config
from rhoselect.errors import ConfigError, ModelError, RhoError
from rhoselect.importing import one_line
from rhoselect.inputs.purity import check_pure
from rhoselect.inputs.run_inputs import RunInputs
from rhoselect.models.build import other_floats
from rhoselect.models.frozen import Frozen
from rhoselect.models.replica import Replica
from rhoselect.nest import shapes
from rhoselect.selection.interface import ScoreFunction, State
from rhoselect.tasks import Task, losses_of
from rhoselect.tasks.base import main_figure
from rhoselect.types import Batch, ForwardOutput, Losses


def check_scoring(inputs: RunInputs, device: torch.device) -> None:
    """Raise ModelError or ConfigError unless the model suits the task on ``device``, and the score
    function gives one score a point. Torch's random state is kept."""
    model = inputs.new_model().to(device)
    sample = inputs.train.read(inputs.train.first(2), device)
    check_task(inputs, model, sample)
    del model  # a GPU may not hold it and a replica
    if inputs.config.scorer.proxy:
        check_proxy(inputs, inputs.new_proxy().to(device), sample)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        check_scores(inputs, device)


def check_task(inputs: RunInputs, model: nn.Module, batch: Batch) -> None:
    """Raise ModelError unless the run's task suits ``model``, a new one, and points, and the model
    has the frozen parameters of all others; ConfigError for a function that needs logits, or a
    selection of tokens, of a task that has none; IrreducibleLossError for a table of other tokens.
    """
    _check_budget(inputs, batch)
    named = f"model.factory {inputs.config.model.factory}"
    _check_network(inputs, named, inputs.frozen, model, batch)
    _check_figure(inputs.task, model, batch)


def check_proxy(inputs: RunInputs, proxy: nn.Module, batch: Batch) -> None:
    """The same of the proxy, a new one."""
    named = f"scorer.proxy {inputs.config.scorer.proxy}"
    _check_network(inputs, named, inputs.frozen_proxy, proxy, batch)


def _check_network(
    inputs: RunInputs, named: str, frozen: Frozen, network: nn.Module, batch: Batch
) -> None:
    frozen.check(network.state_dict(), f"{named} makes other frozen parameters at each call")
    found = check_model(named, inputs.task, network, batch, inputs.classes)
    if inputs.tokens is not None:
        inputs.tokens.losses(found, batch.indices)
    if inputs.scoring.needs.classifier and (found.logits is None or found.labels is None):
        raise ConfigError(
            f"selection.function {inputs.config.selection.function!r}: needs the logits and labels"
            f" of a classifier, got task.name {inputs.config.task.name!r}, which has losses alone;"
            " choose a function that uses losses alone, such as 'reducible_loss'"
        )


def _check_budget(inputs: RunInputs, batch: Batch) -> None:
    """Raise ConfigError for a budget of tokens of points that have none, that a function picks
    together, or of a batch in parts."""
    config, pick = inputs.config, type(inputs.scoring.function).pick
    most, parts = config.selection.max_tokens, config.trainer.micro_batches
    key = f"selection.max_tokens: got {most} with"
    counts = inputs.task.tokens(batch) if most else None
    if most and (counts is None or counts.shape != (len(batch.indices),)):
        raise ConfigError(
            f"{key} task.name = {config.task.name!r}, allowed 0 with a task without tokens [C]"
        )
    if most and pick is not ScoreFunction.pick:
        raise ConfigError(
            f"{key} selection.function = {config.selection.function!r}, allowed 0 with one that"
            " picks n_b points together"
        )
    if most and parts > 1:
        raise ConfigError(
            f"{key} trainer.micro_batches = {parts}, allowed 1, as a batch may have one point;"
            " change one of them"
        )


def _check_figure(task: Task, model: nn.Module, batch: Batch) -> None:
    """Raise ModelError of a task that measures something, but not its main figure. What fails on
    two points may be right for more."""
    was_training = model.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = task.evaluate(model.eval(), [batch])
    except Exception:  # the user's code: anything may come out of it
        return
    finally:
        model.train(was_training)
    main_figure(task, found)


def check_model(named: str, task: Task, model: nn.Module, batch: Batch, outputs: int) -> Losses:
    """What ``task`` computes for ``batch`` under ``model``, in evaluation mode. Raises ModelError,
    which begins with what the model is ``named``, unless there is one loss a point, and the model
    suits a data set of so many ``outputs``: its classes, or numbers to predict."""
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            task.check(model, batch, outputs)
            return losses_of(task, model, batch)
    except ModelError as error:
        raise ModelError(f"{named}: {error}") from None
    except Exception as error:  # the user's code: anything may come out of it
        raise ModelError(
            f"{named}: its model{other_floats(model)} fails on inputs of shape"
            f" {shapes(batch.inputs)}: {one_line(error)}"
        ) from None
    finally:
        model.train(was_training)


def check_scores(inputs: RunInputs, device: torch.device) -> None:
    """Raise ConfigError unless the score function gives one score a point for two points, and
    ModelError if the model fails on them as it is scored."""
    function, output = inputs.config.selection.function, None
    sample = inputs.train.read(inputs.train.first(2), device)
    state: State = {}  # it is published with the weights
    with repeatable(device, inputs.config.compute.tf32):
        if inputs.scoring.needs.forward:
            replica = inputs.new_replica(device, bn="running")
            output = _scored(inputs.config, replica, sample)
            check_pure(replica, inputs.train, inputs.config.selection.chunk)
            _check_passes(inputs.config, output, replica(sample))
            _check_smallest(inputs, device)
            state = inputs.scoring.function.initial_state(inputs.classes)
        try:
            scores, _ = inputs.scoring(sample.indices, output, state)
        except Exception as error:
            raise ConfigError(
                f"selection.function {function}: fails on two points: {one_line(error)}"
            ) from None
    if scores.shape != (2,):
        raise ConfigError(
            f"selection.function {function}: for 2 points gives scores of shape"
            f" {list(scores.shape)}, allowed [2]; return one score a point"
        )


def _scored(config: Config, replica: Replica, batch: Batch) -> ForwardOutput:
    try:
        with repeatable(replica.device, config.compute.tf32):
            return replica(batch)
    except RhoError:
        raise
    except Exception as error:  # the user's code: anything may come out of it
        raise ModelError(
            f"model.factory {config.scorer.proxy or config.model.factory}: its model fails with"
            f" scorer.precision = {config.scorer.precision!r} on inputs of shape"
            f" {shapes(batch.inputs)}: {one_line(error)}"
        ) from None


def _check_smallest(inputs: RunInputs, device: torch.device) -> None:
    """Raise ConfigError if a forward of one point, where the run has one, fails in BatchNorm."""
    selection, k = inputs.config.selection, inputs.config.k
    shortlist = k * selection.n_b if k > 1 and not inputs.scoring.function.whole_window else 0
    if selection.scoring_bn == "running" or 1 not in (selection.chunk, shortlist % selection.chunk):
        return
    new = inputs.new_replica if selection.chunk == 1 else inputs.new_target_replica
    try:
        new(device)(inputs.train.read(inputs.train.first(1), device))
    except ValueError as error:
        raise ConfigError(
            f"selection.chunk: got {selection.chunk}, with which one point is scored alone, allowed"
            f" others with selection.bn = {selection.bn!r} ({one_line(error)}); choose another, or"
            " set selection.bn = 'running'"
        ) from None


def _check_passes(config: Config, first: ForwardOutput, second: ForwardOutput) -> None:
    """Raise ConfigError unless the stochastic passes of two forwards of the same points are random
    and the same. Nothing is checked where there are none."""
    if first.passes is None or second.passes is None:
        return
    key = f"selection.function {config.selection.function}"
    assert first.logits is not None, "checked before"
    if torch.allclose(first.passes, first.logits):
        factory = config.scorer.proxy or config.model.factory
        raise ConfigError(
            f"{key}: needs a model with dropout, got one of {factory} whose"
            " stochastic passes are all alike; choose a model with dropout layers"
        )
    if not torch.equal(first.passes, second.passes):
        raise ConfigError(
            f"{key}: got stochastic passes that do not repeat, allowed a model that draws from"
            " torch's own generator and changes nothing in a forward but BatchNorm's statistics"
        )
