"""Selection for a training loop of your own: start at ``SelectionClient``."""

from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient

__all__ = ["SelectionBatch", "SelectionClient"]
