"""Selection for a training loop of your own: start at ``SelectionClient``."""

from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient
from rhoselect.client.irreducible import fit_irreducible_losses

__all__ = ["SelectionBatch", "SelectionClient", "fit_irreducible_losses"]
