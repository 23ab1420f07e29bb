"""The forms of a forward that stages 2 and 4 try, all in bf16."""

from __future__ import annotations

import torch

from rhoselect.errors import UserError
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.tasks import Classification

OF_CONVOLUTIONS = {
    "channels_last": Numerics("bf16", channels_last=True),
    "folded": Numerics("bf16", fold_batchnorm=True),
    "channels_last, folded": Numerics("bf16", channels_last=True, fold_batchnorm=True),
}
OF_ALL = {
    "graph": Numerics("bf16", graph=True),
    "int8": Numerics("bf16", quantize="int8"),
    "fp8": Numerics("bf16", quantize="fp8"),
}
COMPILED = {
    "compile": Numerics("bf16", compile=True),
    "compile, graph": Numerics("bf16", compile=True, graph=True),
    "fp8, compile": Numerics("bf16", quantize="fp8", compile=True),
}


def made(model: torch.nn.Module, numerics: Numerics, device: torch.device) -> Replica | str:
    """A replica, or why there is none of this form here."""
    try:
        return Replica(model, numerics, device, Classification())
    except UserError as error:
        return f"refused: {error}"[:160]
