"""Which modules of a divided model are gathered one after the other, and which models cannot be
divided. A run is refused by this before it has ranks."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rhoselect.errors import ConfigError, listed

LISTS = (nn.ModuleList, nn.ModuleDict)


def blocks(model: nn.Module, pattern: str) -> list[nn.Module]:
    """The modules of ``model`` with parameters that are gathered one by one, inner ones first:
    those whose names match ``pattern``, in which * is anything but a dot; by default the items of
    each nn.ModuleList outside such items. Raises ConfigError if none matches, and for a model
    that cannot be divided."""
    _check(model)
    named = {name: module for name, module in model.named_modules() if name}
    found = [n for n in named if _matches(n, pattern)] if pattern else _items(named)
    if pattern and not found:
        raise ConfigError(
            f"trainer.blocks: got {pattern!r}, which matches no module, allowed a pattern that"
            f" does, such as 'layers.*'; the model has: {listed(named)}"
        )
    if lists := [name for name in found if isinstance(named[name], LISTS)]:
        raise ConfigError(
            f"trainer.blocks: got {pattern!r}, which matches {listed(lists)}, allowed modules with"
            " a forward: a list of modules has none; name what is in it"
        )
    modules = [named[name] for name in reversed(found)]
    chosen = [module for module in modules if any(True for _ in module.parameters())]
    _check_apart(model, chosen)
    return chosen


def _items(named: dict[str, nn.Module]) -> list[str]:
    found = list[str]()
    for name, module in named.items():  # outer ones come before inner ones
        is_item = isinstance(named.get(name.rpartition(".")[0]), nn.ModuleList)
        if is_item and not isinstance(module, LISTS) and not _is_in(name, found):
            found.append(name)
    return found


def _is_in(name: str, outer: list[str]) -> bool:
    return name.startswith(tuple(f"{each}." for each in outer))


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def _check(model: nn.Module) -> None:
    """Raise ConfigError for what has no rows to divide, or what all ranks would have to average."""
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise _refused("with BatchNorm, allowed models without")
    if single := [name for name, p in model.named_parameters() if not p.ndim]:
        raise _refused(f"with numbers as parameters ({listed(single)}), allowed tensors with rows")


def _check_apart(model: nn.Module, chosen: list[nn.Module]) -> None:
    """Raise ConfigError if two blocks share a parameter: each is gathered by its own one."""
    of_module, of_parameter = dict[int, nn.Module](), dict[int, nn.Module]()
    for block in (*chosen, model):
        inner = {id(module) for module in block.modules()}
        for module in block.modules():
            owner = of_module.setdefault(id(module), block)
            if owner is not block:
                owners = [] if id(owner) in inner else [owner]
            else:
                own = module.parameters(recurse=False)
                owners = [of_parameter.setdefault(id(parameter), block) for parameter in own]
            if any(each is not block for each in owners):
                raise _refused("whose trainer.blocks share a parameter, allowed blocks apart")


def _refused(what: str) -> ConfigError:
    return ConfigError(
        f"trainer.parallel: got 'fsdp' and a model {what}; or set 'replicated', with a whole model"
        " on each device"
    )
