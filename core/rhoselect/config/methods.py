"""The sections of single selection methods."""

from __future__ import annotations

from pydantic import Field

from rhoselect.config.base import Place, Section


class SvpConfig(Section):
    """The core-set of selection.function "svp" (unused by others)."""

    table: Place | None = Field(None, description="file made by 'rhoctl svp fit'")
    keep: float = Field(
        0.5, gt=0, le=1, description="share of the train split kept: the points of greatest entropy"
    )


class InfoBatchConfig(Section):
    """What selection.function "infobatch" drops (unused by others)."""

    r: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="probability with which an epoch drops a point whose last loss is below the"
        " mean; those that stay have the weight 1 / (1 - r)",
    )
    delta: float = Field(
        0.875, gt=0, le=1, description="share of the steps after which nothing is dropped any more"
    )
