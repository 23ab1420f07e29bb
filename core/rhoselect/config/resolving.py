"""Automatic values, replaced by what they mean on this machine."""

from __future__ import annotations

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
    scorer, trainer = (
        part.model_copy(update={"device": device}) if part.device == "auto" else part
        for part in (config.scorer, config.trainer)
    )
    if scorer.precision == "auto":
        precision = "bf16" if compute.has_fast_bf16(scorer.device) else "fp32"
        scorer = scorer.model_copy(update={"precision": precision})
    update = {"selection": selection, "scorer": scorer, "trainer": trainer}
    return config.model_copy(update=update)
