"""What is learnt. A task of your own is a subclass of ``Task`` that gives ``losses``; its import
path is ``task.name``. ``get_task`` finds it, and the built-in ones, by name.
"""

from rhoselect.tasks.base import Metrics, Task, losses_of, output_of
from rhoselect.tasks.causal_lm import CausalLM
from rhoselect.tasks.classification import Classification
from rhoselect.tasks.registry import BUILT_IN, get_task
from rhoselect.types import Batch, Losses

__all__ = [
    "BUILT_IN",
    "Batch",
    "CausalLM",
    "Classification",
    "Losses",
    "Metrics",
    "Task",
    "get_task",
    "losses_of",
    "output_of",
]
