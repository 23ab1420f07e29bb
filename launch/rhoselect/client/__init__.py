"""Selection for a training loop of your own: start at ``SelectionClient``."""

from rhoselect.client.batches import SelectionBatch
from rhoselect.client.loop import SelectionClient

__all__ = ["SelectionBatch", "SelectionClient"]
