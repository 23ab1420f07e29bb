"""Weights from a file (safetensors, or a state dict that torch saved), and made ready for one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rhoselect.errors import ModelError, listed
from rhoselect.files import check_readable
from rhoselect.importing import one_line


def load_weights(
    model: nn.Module, path: Path, head: bool = True, key: str = "model.weights"
) -> None:
    """Copy the tensors of ``path`` into ``model``: same names, same shapes, none over.

    ``head`` False leaves the last layer (the module that holds the last parameter) as it is, and
    what the file has under its name out. Raises ModelError, which begins with the ``key`` that gave
    the path, naming the first difference.
    """
    given, own = read_weights(path, key), model.state_dict()
    if not head:
        last = last_layer(model)
        given = {n: t for n, t in given.items() if not n.startswith(last)}
        own = {n: t for n, t in own.items() if not n.startswith(last)}
    differences = [f"{n} is not in the file" for n in own if n not in given]
    differences += [f"{n} is not in the model" for n in given if n not in own]
    differences += [
        f"{n} is {list(given[n].shape)} in the file and {list(t.shape)} in the model"
        for n, t in own.items()
        if n in given and given[n].shape != t.shape
    ]
    if differences:
        raise ModelError(
            f"{key} {path}: {listed(differences, 3, '; ')}; allowed the model's own"
            " names and shapes; model.weights_head = false leaves out the last layer"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def read_weights(path: Path, key: str) -> Mapping[str, Tensor]:
    """The tensors of a file by name: safetensors by its suffix, else torch's format, never with
    other pickled objects. Raises ModelError."""
    try:
        check_readable(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(
            f"{key}: got {path}, no such file; allowed a .safetensors file or a state dict"
            " saved by torch"
        ) from None
    except PermissionError:
        raise
    except Exception as error:  # a file of any other kind: anything may come out of parsing it
        raise ModelError(
            f"{key} {path}: cannot be read ({one_line(error)[:200]}); allowed a"
            " .safetensors file or a state dict saved by torch"
        ) from None
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ModelError(
            f"{key} {path}: holds other things than tensors by name; allowed a state dict"
            " alone: torch.save(model.state_dict(), …)"
        )
    return found


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, to be saved: safetensors refuses tensors that share memory, as
    those of tied weights do."""
    copies, arrivals = staged(tensors)
    for arrival in arrivals:
        arrival.synchronize()
    return copies


def staged(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[torch.cuda.Event]]:
    """Copies as of ``separate``, which are whole after these events: those from a GPU go to pinned
    memory behind the work that it has now, and before what it gets next."""
    copies = {
        name: torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda).copy_(
            t.detach(), non_blocking=True
        )
        for name, t in tensors.items()
    }
    arrivals = list[torch.cuda.Event]()
    for device in {t.device for t in tensors.values() if t.is_cuda}:
        arrivals.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        arrivals[-1].record(torch.cuda.current_stream(device))
    return copies, arrivals


def greatest(tensors: Iterable[Tensor]) -> float:
    """The greatest size of a value in ``tensors``, on one device: NaN if one is, 0 of none. On a
    GPU the host waits once."""
    found = [tensor.aminmax() for tensor in tensors if tensor.numel()]
    ends = [end.float() for both in found for end in both]
    return torch.stack(ends).abs().max().item() if ends else 0.0


def last_layer(model: nn.Module) -> str:
    """The name, with its dot, of the module that holds the model's last parameter."""
    *_, name = (name for name, _ in model.named_parameters())
    return name.rpartition(".")[0] + "."
