"""The devices of a data-parallel trainer, its *ranks*: what they sum and what they exchange."""

from rhoselect.ranks.group import Alone, Group

__all__ = ["Alone", "Group"]
