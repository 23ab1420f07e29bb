"""The optimizers of a model, by name or import path, and which parameters each of them trains."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rhoselect.config.training import KEYS_OF_THEIR_OWN, GroupConfig, OptimizerConfig, TrainerConfig
from rhoselect.errors import ConfigError, listed
from rhoselect.importing import load_object, one_line
from rhoselect.trainer.packing import pack, prefixed, unpack, without
from rhoselect.trainer.schedules import learning_rate

OURS: Mapping[Any, Mapping[str, Any]] = {torch.optim.AdamW: {"fused": True}}
"""Arguments that a class has unless the configuration says otherwise."""
BUILT_IN = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
)


class Optimizers:
    """Each parameter of ``model`` with ``requires_grad`` learns by the optimizer of its group, at
    the group's share of the schedule's rate. Raises ConfigError, one line."""

    def __init__(self, model: nn.Module, config: TrainerConfig) -> None:
        self._config = config
        groups = _grouped(model, config)
        # Groups of one configuration are groups of one optimizer, as a user of torch has them.
        kinds = [group.kind for group in groups]
        unique = [kind for n, kind in enumerate(kinds) if kind not in kinds[:n]]
        self._optimizers = [
            _made([group for group in groups if group.kind == kind], config.lr) for kind in unique
        ]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def step(self, step: int) -> None:
        """Take step ``step`` (from 0) with the gradients that the parameters have."""
        rate = learning_rate(self._config, step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_factor"]
            optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """All their state as tensors. Raises ConfigError for one that a checkpoint cannot hold."""
        tensors = dict[str, Tensor]()
        for number, optimizer in enumerate(self._optimizers):
            try:
                packed = pack(optimizer.state_dict())
            except TypeError as error:
                name = type(optimizer).__name__
                raise ConfigError(
                    f"trainer.optimizer {name}: its state_dict() has at {error}, allowed dicts,"
                    " lists and tuples of tensors, numbers and texts, which a checkpoint holds"
                    " without pickle"
                ) from None
            tensors |= prefixed(f"{number}.", packed)
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""
        for number, optimizer in enumerate(self._optimizers):
            optimizer.load_state_dict(unpack(without(f"{number}.", tensors)))
            _lay_out(optimizer)

    def check_resume(self, model: nn.Module) -> None:
        """Raise ConfigError if the next step, with the gradients that there are, is another one
        once the state was stored and loaded. It changes the weights. Those of torch are known to
        pass."""
        if all(type(each).__module__.startswith("torch.optim.") for each in self._optimizers):
            return
        stored = {name: tensor.cpu().clone() for name, tensor in self.state_dict().items()}
        again = Optimizers(model, self._config)
        again.load_state_dict(stored)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        self.step(1)
        after = [parameter.detach().clone() for parameter in model.parameters()]
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)
        again.step(1)
        pairs = zip(model.parameters(), after, strict=True)
        if not all(torch.allclose(p, v, rtol=0, atol=0, equal_nan=True) for p, v in pairs):
            names = listed(type(each).__name__ for each in self._optimizers)
            raise ConfigError(
                f"trainer.optimizer: {names}: takes another step after its state_dict() was loaded,"
                " allowed optimizers that a resumed run can go on with; keep all that a step needs"
                " in its state or its param_groups"
            )


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Store the state of each parameter as that is: fused steps go through both side by side."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            like = isinstance(value, Tensor) and value.shape == parameter.shape
            if like and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@dataclass(frozen=True)
class _Group:
    """Parameters that learn alike. ``key`` is where ``kind``, their optimizer, is configured."""

    kind: OptimizerConfig
    key: str
    lr_factor: float
    weight_decay: float
    parameters: Sequence[nn.Parameter]


def matches(group: GroupConfig, name: str, parameter: nn.Parameter) -> bool:
    """Whether a group is for the parameter of this name."""
    dims = group.dims or [parameter.ndim]
    return fnmatchcase(name, group.pattern) and parameter.ndim in dims


def _grouped(model: nn.Module, config: TrainerConfig) -> list[_Group]:
    """The parameters that learn by their groups; those of no group come first. Raises
    ConfigError."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    left, groups = learning, list[_Group]()
    for number, group in enumerate(config.groups):
        key = f"trainer.groups.{number}"
        found = [name for name, parameter in left.items() if matches(group, name, parameter)]
        if not found:
            dims = f" of {listed(group.dims)} dimensions" if group.dims else ""
            rest = " that earlier groups left" if number else ""
            raise ConfigError(
                f"{key}.pattern: got {group.pattern!r}, which matches no parameter{dims}{rest},"
                f" allowed one that does; the model has{rest}: {listed(left)}"
            )
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        kind = group.optimizer or config.optimizer
        place = f"{key}.optimizer" if group.optimizer else "trainer.optimizer"
        parameters = [left.pop(name) for name in found]
        groups.append(_Group(kind, place, group.lr_factor, decay, parameters))
    if left:
        whole, decay = list(left.values()), config.weight_decay
        groups.insert(0, _Group(config.optimizer, "trainer.optimizer", 1.0, decay, whole))
    return groups


def _made(groups: Sequence[_Group], lr: float) -> Optimizer:
    """One optimizer for ``groups``, which share its configuration. Raises ConfigError."""
    kind, key = groups[0].kind, groups[0].key
    make = _class_of(kind.name, f"{key}.name")
    taken = _taken(make)
    if taken is not None:
        _check_taken(groups, taken)
    decays = taken is None or "weight_decay" in taken
    args = {name: tuple(v) if isinstance(v, list) else v for name, v in kind.args.items()}
    parts = [
        {"params": list(group.parameters), "lr": lr * group.lr_factor, "lr_factor": group.lr_factor}
        | ({"weight_decay": group.weight_decay} if decays else {})
        for group in groups
    ]
    try:
        optimizer: Optimizer = make(parts, lr=lr, **{**OURS.get(make, {}), **args})
    except Exception as error:  # the user's code, or torch's: it tells what it does not take
        raise ConfigError(
            f"{key} {kind.name}: failed with {one_line(error)}; allowed arguments and parameters"
            " that it takes: change its args, or give some parameters to another optimizer by"
            " trainer.groups (docs/optimizers.md)"
        ) from None
    _check_made(optimizer, f"{key} {kind.name}")
    return optimizer


def _class_of(name: str, key: str) -> Any:
    """The class that ``name`` names. Raises ConfigError."""
    if ":" in name:
        return load_object(name, key)
    if name not in BUILT_IN:
        raise ConfigError(
            f"{key}: got {name!r}, allowed {listed(BUILT_IN, 20)}, which this torch has, or"
            " 'module:class'"
        )
    return getattr(torch.optim, name)


def _taken(make: Any) -> set[str] | None:
    """The names of the arguments that a class takes; None if it takes any, or does not tell."""
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:
        return None
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return None if anything else set(parameters)


def _check_taken(groups: Sequence[_Group], taken: set[str]) -> None:
    """Raise ConfigError for arguments that an optimizer does not take."""
    kind, key = groups[0].kind, groups[0].key
    if unknown := [name for name in kind.args if name not in taken]:
        allowed = sorted(taken - KEYS_OF_THEIR_OWN.keys())
        raise ConfigError(
            f"{key}.args: got {listed(unknown)}, allowed for {kind.name}: {listed(allowed, 20)}"
        )
    if "weight_decay" not in taken and any(group.weight_decay for group in groups):
        raise ConfigError(
            f"{key} {kind.name}: takes no weight decay, allowed weight_decay = 0 of trainer, or of"
            " the groups that it trains"
        )


def _check_made(optimizer: Any, name: str) -> None:
    """Raise ConfigError for what cannot take a step by gradients alone."""
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"{name}: gave a {type(optimizer).__name__}, allowed a torch.optim.Optimizer"
        )
    required = [
        each.name
        for each in inspect.signature(optimizer.step).parameters.values()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if required:
        raise ConfigError(
            f"{name}: its step needs a {required[0]}, allowed optimizers that need gradients alone,"
            " such as AdamW, SGD, Muon and Adafactor"
        )
