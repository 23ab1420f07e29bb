"""The loop's own model: its device, its weights, and a copy of it that scores.

``torch.compile`` and data parallelism wrap a model, or parts of it, and so change the names of its
tensors. Here these have the names of the model without wrappers, which are those that scorers use.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from rhoselect.compute import resolve_device
from rhoselect.errors import ModelError, listed
from rhoselect.importing import one_line
from rhoselect.models.build import unsized
from rhoselect.selector.session import check_tensors
from rhoselect.types import Layout

OTHERS = "the loop's model has other frozen parameters than the one that scores"


def check_module(model: Any) -> None:
    """Raise ModelError for what is no module."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"model: got a {type(model).__name__}, allowed a torch.nn.Module")


def check_copyable(model: nn.Module) -> None:
    """Raise ModelError for a model of which no copy could score in this process."""
    check_module(model)
    _check_sized(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "model: got a TorchScript module, allowed the torch.nn.Module that it was made from:"
            " the copy that scores has other precisions; give the module before torch.jit.script"
        )
    if shards_of(model):
        raise ModelError(
            "model: got a sharded one, allowed a whole one where a copy of it scores: give"
            " SelectionClient the model before fully_shard, and step the sharded one"
        )


def _check_sized(model: nn.Module) -> None:
    if lazy := unsized(model):
        raise ModelError(
            f"model: got {listed(lazy, 3)} of unknown size, allowed layers that know their sizes;"
            " run one forward before you give the model to SelectionClient"
        )


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters; the CPU of a model without. Raises ModelError if they
    are on several."""
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise ModelError(
            f"model: got parameters on {listed(sorted(map(str, devices)))}, allowed one device"
            " where this process scores; move the model to one, or select with a service:"
            " SelectionClient(model, ADDRESS)"
        )
    return next(iter(devices), torch.device("cpu"))


def chosen_device(model: nn.Module, named: str, key: str) -> torch.device:
    """The device that the configuration's ``key`` names: that of the model if it is "auto", or no
    more than its kind. Raises UserError."""
    own = device_of(model)
    if named == own.type or (named == "auto" and own.type in ("cpu", "cuda")):
        return own
    return resolve_device(named, key)


def weights_of(model: nn.Module, layout: Layout) -> Mapping[str, Tensor]:
    """The model's parameters and buffers by name, which have the names and shapes of ``layout``:
    the live tensors, which may be sharded ones. Raises ModelError. Of a wrapper that is not known
    here it names the attribute that holds the model."""
    check_module(model)
    if layout:
        _check_sized(model)
    tensors = _tensors(unwrapped(model))
    try:
        check_tensors(tensors, layout)
    except ModelError:
        for name, inner in model.named_children():
            if layout.keys() <= inner.state_dict().keys():
                raise ModelError(
                    f"model: got a {type(model).__name__}, allowed the model that it wraps; give"
                    f" model.{name} to SelectionClient and to step"
                ) from None
        raise
    return tensors


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in its wrappers."""
    while (inner := _wrapped_by(model)) is not None:
        model = inner
    return model


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model without its wrappers. For mixed precision, accelerate puts another forward
    in place of the model's own; that one cannot be copied, and the copy has a precision of its
    own."""
    model = unwrapped(model)
    prepared, original = model.forward, model.__dict__.get("_original_forward")
    if original is None:
        return _copied(model)
    try:
        model.forward = original
        return _copied(model)
    finally:
        model.forward = prepared


def _copied(model: nn.Module) -> nn.Module:
    """A copy that has, in place of each wrapper, what that wraps. Raises ModelError."""
    copies: dict[int, Any] = {}
    try:
        for module in reversed(list(model.modules())):  # inner ones first
            if (inner := _wrapped_by(module)) is not None:
                copies[id(module)] = copy.deepcopy(inner, copies)
        return copy.deepcopy(model, copies)
    except Exception as error:  # from whatever the user's modules hold
        raise ModelError(
            f"model: cannot be copied ({one_line(error)}), allowed one that"
            " copy.deepcopy copies: a copy of it scores; in place of torch.nn.utils.weight_norm"
            " use torch.nn.utils.parametrizations.weight_norm"
        ) from None


def _wrapped_by(module: nn.Module) -> nn.Module | None:
    """What a module only wraps; None of any other module."""
    # A compiled one is not told by its class, whose module takes a second to import.
    return dict(module.named_children()).get(_attribute(module))


def _attribute(module: nn.Module) -> str:
    """The name under which a module, if it is a wrapper, has what it wraps."""
    parallel = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return "module" if parallel else "_orig_mod"


def shards_of(model: nn.Module) -> int:
    """Over how many processes the model's weights are spread; 0 if they are plain tensors."""
    # By DTensors, or by FullyShardedDataParallel. Neither is imported for models without.
    spread = [p.device_mesh.size() for p in model.parameters() if hasattr(p, "device_mesh")]
    spread += [m.world_size for m in model.modules() if hasattr(m, "_fsdp_wrapped_module")]
    return max(spread, default=0)


def check_spread(model: nn.Module, ranks: int) -> None:
    """Raise ModelError for a model that is spread over more than these processes."""
    shards = shards_of(model)
    if shards > max(1, ranks):
        raise ModelError(
            f"model: got one whose weights are spread over {shards} processes, allowed over the"
            f" {ranks} that select together: this one would wait for the others; make a"
            " SelectionClient on all of them, without alone=True"
        )


def whole(tensors: Mapping[str, Tensor], layout: Layout | None) -> Mapping[str, Tensor]:
    """The tensors, sharded ones gathered, for which all their ranks must call this: those of
    ``layout`` in its dtypes, as half of the bytes are enough for scores; without one all of them as
    they are."""
    found: dict[str, Any] = dict(tensors)
    for name, tensor in list(found.items()):
        if not hasattr(tensor, "full_tensor"):
            continue
        if layout is not None and name not in layout:
            del found[name]
            continue
        dtype = tensor.dtype if layout is None else layout[name].dtype
        device = tensor.device_mesh.device_type  # shards may be offloaded, which are not sent
        found[name] = tensor.detach().to(device, dtype).full_tensor()
    return found


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    if not any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules()):
        return _without_wrappers(model)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return cast(dict[str, Tensor], state)


def _without_wrappers(model: nn.Module) -> Mapping[str, Tensor]:
    """The state of a model by the names that it has without wrappers of its parts."""
    tensors: dict[str, Tensor] = model.state_dict()
    parts = reversed(list(model.named_modules(remove_duplicate=False)))  # inner ones first
    for path, module in parts:
        if _wrapped_by(module) is not None:
            inner = f"{path}.{_attribute(module)}."
            tensors = {
                f"{path}.{name.removeprefix(inner)}" if name.startswith(inner) else name: tensor
                for name, tensor in tensors.items()
            }
    return tensors
