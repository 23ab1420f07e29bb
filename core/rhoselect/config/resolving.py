"""Automatic values, replaced by what they mean on this machine."""

from __future__ import annotations

from rhoselect.config.base import Section
from rhoselect.config.tree import Config


def resolve(config: Config) -> Config:
    """The configuration with its automatic values replaced by what they mean on this machine.

    Every process of a run works with the resolved configuration and the run folder keeps it, so
    that a result does not depend on the machine that a process happens to run on.
    """
    import torch  # takes seconds, for which a look at a run does not wait

    from rhoselect import compute

    device = "cuda" if torch.cuda.is_available() else "cpu"
    selection = config.selection.model_copy(update={"shortlist": config.k})
    update: dict[str, Section] = {"selection": selection}
    for name, part in (("scorer", config.scorer), ("trainer", config.trainer)):
        at, precision = device if part.device == "auto" else part.device, part.precision
        if precision == "auto":
            precision = "bf16" if compute.has_fast_bf16(at) else "fp32"
        update[name] = part.model_copy(update={"device": at, "precision": precision})
    return config.model_copy(update=update)
