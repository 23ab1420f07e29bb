"""Tasks by name: the one place that knows which there are."""

from __future__ import annotations

from rhoselect.config.sections import TaskConfig
from rhoselect.errors import ConfigError, RhoError
from rhoselect.importing import load_object, one_line
from rhoselect.tasks.base import Task

BUILT_IN = {
    "classification": "rhoselect.tasks.classification:Classification",
    "causal_lm": "rhoselect.tasks.causal_lm:CausalLM",
    "masked_lm": "rhoselect.tasks.masked_lm:MaskedLM",
    "seq2seq_lm": "rhoselect.tasks.seq2seq_lm:Seq2SeqLM",
    "regression": "rhoselect.tasks.measured:Regression",
    "multi_label": "rhoselect.tasks.measured:MultiLabel",
}


def get_task(config: TaskConfig) -> Task:
    """The task that section ``task`` names. Raises ConfigError."""
    name, args = config.name, config.args
    if name not in BUILT_IN and ":" not in name:
        raise ConfigError(
            f"task.name: got {name!r}, allowed {', '.join(BUILT_IN)} or 'module:Class'"
        )
    make = load_object(BUILT_IN.get(name, name), "task.name")
    try:
        task = make(**args)
    except RhoError as error:
        raise ConfigError(f"task.name {name}: {error}") from None
    except Exception as error:  # the user's code: anything may come out of it
        raise ConfigError(
            f"task.name {name}: failed with {one_line(error)} when called with task.args ="
            f" {dict(args)}"
        ) from None
    if not isinstance(task, Task):
        raise ConfigError(
            f"task.name {name}: gave a {type(task).__name__}, allowed a rhoselect.tasks.Task;"
            " subclass it"
        )
    if task.direction not in ("max", "min"):
        raise ConfigError(
            f"task.name {name}: its direction is {task.direction!r}, allowed 'max' or 'min'"
        )
    return task
