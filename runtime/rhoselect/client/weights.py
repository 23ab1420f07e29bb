"""The weights of the loop's model, as a backend takes them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from rhoselect.client.own_model import OTHERS, check_spread, shards_of, weights_of, whole
from rhoselect.models.frozen import Frozen, Watch, changes_counted
from rhoselect.types import Layout


class OwnWeights:
    """Takes the tensors of ``layout`` from a model that has the ``frozen`` ones, too, and may be
    sharded over ``ranks`` processes."""

    def __init__(self, layout: Layout, frozen: Frozen, ranks: int) -> None:
        self._layout, self._ranks = layout, ranks
        self._watch, self._watched = Watch(frozen, changes_counted), False

    def check(self, model: nn.Module) -> None:
        """Raise ModelError as `of` does, but for a sharded model."""
        if not shards_of(model):
            self._watch.check(weights_of(model, self._layout), OTHERS)

    def of(self, model: nn.Module, exact: bool = False) -> Mapping[str, Tensor]:
        """The model's tensors, for which all ranks of a sharded one call this; then they have the
        dtypes of the layout unless ``exact``. Raises ModelError if they are not those that scorers
        expect."""
        check_spread(model, self._ranks)
        tensors = weights_of(model, self._layout)
        watched, self._watched = self._watched, True
        if watched and shards_of(model):  # to gather what does not learn each time would cost much
            return whole(tensors, None if exact else self._layout)
        found = whole(tensors, None)
        self._watch.check(found, OTHERS)
        return found
