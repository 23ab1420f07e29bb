"""A model whose forward torch.compile makes.

A kernel may depend on the shapes that it is made for, so there is one for each shape of a chunk and
none for several: what was scored before changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rhoselect.errors import ConfigError, ModelError
from rhoselect.importing import one_line
from rhoselect.tasks.pieces import body_of

MOST_SHAPES = 1 << 20


def compile_parts(model: nn.Module, device: torch.device) -> None:
    """Compile ``model`` in place at its first forward, or the body that a task of tokens calls in
    its place. Raises ConfigError where kernels would be chosen by measuring them."""
    from torch._inductor import config  # it takes seconds, which other runs do not wait for

    options: dict[str, Any] = {"compile_threads": 1}  # more are processes, which outlive a kill
    if device.type == "cuda":
        if not hasattr(config, "deterministic"):
            raise ConfigError(
                f"scorer.compile: got true on a GPU with torch {torch.__version__}, allowed with a"
                " release that has torch._inductor.config.deterministic: others choose kernels by"
                " their speed of the moment; install a newer torch, or set the key to false"
            )
        options["deterministic"] = True
    body = body_of(model)
    called = model if body is None else body
    own = called.forward

    def forward(*args: Any, **keywords: Any) -> Any:  # torch compiles no frame of its own modules
        return own(*args, **keywords)

    compiled = torch.compile(forward, fullgraph=True, dynamic=False, options=options)
    called.forward = compiled


@contextmanager
def compiling() -> Iterator[None]:
    """Run a compiled forward. Raises ModelError if it cannot be compiled."""
    from torch._dynamo import config, exc

    # Of this thread; at the limit torch gives up. Since 2.7 these are other names for its
    # recompile_limit.
    if config.cache_size_limit < MOST_SHAPES:
        config.cache_size_limit = config.accumulated_cache_size_limit = MOST_SHAPES
    try:
        yield
    except exc.TorchDynamoException as error:
        raise ModelError(
            f"scorer.compile: the forward cannot be compiled ({one_line(error)}), allowed a model"
            " whose forward torch.compile takes as a whole, and a working compiler; set the key to"
            " false"
        ) from error
