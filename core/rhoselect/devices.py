"""Which GPU a process of a run computes on. Nothing here uses a GPU: a driver needs none to ask.

A GPU belongs to the trainer, and to the scorer in its process; the scorers beside it have the next
ones, in turn. On a cluster Ray shows each actor the GPUs that it took.
"""

from __future__ import annotations

import torch

from rhoselect.compute import parse_device, resolve_device
from rhoselect.config import Config
from rhoselect.config.scoring import ComputeConfig
from rhoselect.errors import ConfigError

SCORER, TRAINER = "scorer.device", "trainer.device"


def check_names(config: Config) -> None:
    """Raise ConfigError for a value that names no device, here or on another machine, and for keys
    of GPUs where there are none. ``config`` is resolved."""
    parse_device(config.scorer.device, SCORER)
    parse_device(config.trainer.device, TRAINER)
    tf32 = config.compute.tf32
    if tf32 != ComputeConfig().tf32 and not uses_gpu(config):
        raise ConfigError(
            f"compute.tf32: got {tf32!r} and no GPU, allowed with trainer.device or scorer.device ="
            " 'cuda': a CPU has no TF32; leave it out"
        )


def uses_gpu(config: Config) -> bool:
    """Whether a process of a run computes on a GPU. ``config`` is resolved."""
    return config.scorer.device != "cpu" or config.trainer.device != "cpu"


def trainer_device(config: Config) -> torch.device:
    """The device of the trainer in this process. Raises ConfigError if it is not here."""
    return resolve_device(config.trainer.device, TRAINER)


def of_rank(config: Config, rank: int) -> Config:
    """The configuration of one of ``trainer.devices``: on GPUs, rank r has the r-th one after the
    lead's."""
    device = parse_device(config.trainer.device, TRAINER)
    if device.type == "cpu":
        return config
    name = f"cuda:{(device.index or 0) + rank}"
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"device": name})})


def check_ranks(config: Config) -> None:
    """Raise ConfigError unless each of ``trainer.devices`` has a device of its own here."""
    trainer_device(of_rank(config, config.trainer.devices - 1))


def ranks_are_actors(config: Config) -> bool:
    """Whether each of ``trainer.devices`` is an actor, on any machine of a cluster, also without
    scorers."""
    return config.trainer.devices > 1 and config.cluster.address != "local"


def own_device(config: Config) -> torch.device:
    """The device of the scorer in the trainer's process: the trainer's, if both are of one kind.

    All scores of a run come from the scorers' kind of device, as another gives other bits. Raises
    ConfigError if it is not here.
    """
    scorer = parse_device(config.scorer.device, SCORER)
    if scorer.type == parse_device(config.trainer.device, TRAINER).type:
        return trainer_device(config)
    try:
        return resolve_device(config.scorer.device, SCORER)
    except ConfigError as error:
        raise ConfigError(f"{error}; the trainer's process scores, too") from None


def service_device(config: Config, workers: int) -> torch.device | None:
    """The device of the scorer in the process of a service with ``workers`` scorers. None if it is
    not here and they may be on machines that have it: then they score everything. Raises
    ConfigError otherwise."""
    try:
        return own_device(config)
    except ConfigError:
        if workers == 0 or config.cluster.address == "local":
            raise
        return None


def scorer_device(config: Config, slot: int, beside_trainer: bool) -> torch.device:
    """The device of the scorer in ``slot``, in this process; ``beside_trainer``: the trainer is on
    this machine, too, and sees the same GPUs. Raises ConfigError if it is not here."""
    device = resolve_device(config.scorer.device, SCORER)
    if config.scorer.device != "cuda":
        return device
    taken = _last_trainer_gpu(config) if beside_trainer else None
    return torch.device("cuda", scorer_gpu(slot, torch.cuda.device_count(), taken))


def scorer_gpu(slot: int, gpus: int, trainer_gpu: int | None) -> int:
    """The GPU of the scorer in ``slot``, of ``gpus``: those after the trainer's in turn, or after
    none, from GPU 0 on."""
    first = 0 if trainer_gpu is None else trainer_gpu + 1
    return (first + slot) % gpus


def sharing(config: Config, workers: int, gpus: int) -> str | None:
    """A line that says that the processes of a run with ``workers`` scorers on a machine with
    ``gpus`` GPUs share some of them; None if each has its own, or if the configuration says which
    GPU all scorers use."""
    trains = 0 if _last_trainer_gpu(config) is None else config.trainer.devices
    if config.scorer.device != "cuda" or not gpus:
        return None
    enough = max(0, gpus - trains)
    if workers <= enough:
        return None
    processes, plural = workers + trains, "s" if gpus > 1 else ""
    return (
        f"{processes} processes share {gpus} GPU{plural} and take turns; with --workers {enough}"
        " each has its own, with the same result (rhoctl plan says which is faster)"
    )


def _last_trainer_gpu(config: Config) -> int | None:
    trainer = parse_device(config.trainer.device, TRAINER)
    return None if trainer.type == "cpu" else (trainer.index or 0) + config.trainer.devices - 1
