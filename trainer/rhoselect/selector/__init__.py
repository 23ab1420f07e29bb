"""The selector gives the batch of every step: to our trainer, a served loop and a local loop."""

from rhoselect.selector.fence import ClosableFence, Fence
from rhoselect.selector.selector import SelectedBatch, Selector

__all__ = ["ClosableFence", "Fence", "SelectedBatch", "Selector"]
