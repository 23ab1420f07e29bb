"""The configuration: one TOML file, one tree of frozen models, every key checked before a run.

Keys are named as in ``--set section.key=value``. Unknown keys are errors. Numbers that the result
depends on (seed, chunk, threads, precision, lag, …) are fixed here, never taken from the machine,
so that a run means the same wherever it runs.
"""

from rhoselect.config.base import Section, cache_home
from rhoselect.config.loading import apply, from_json, load, parse
from rhoselect.config.operation import QueueConfig
from rhoselect.config.resolving import resolve
from rhoselect.config.sections import DataConfig, SelectionConfig
from rhoselect.config.training import TrainerConfig
from rhoselect.config.tree import Config, flat, is_free

__all__ = [
    "Config",
    "DataConfig",
    "QueueConfig",
    "Section",
    "SelectionConfig",
    "TrainerConfig",
    "apply",
    "cache_home",
    "flat",
    "from_json",
    "is_free",
    "load",
    "parse",
    "resolve",
]
