"""The devices of a data-parallel trainer, its *ranks*: what they sum and what they exchange.

Before each step the lead sends an order (generation, step, kind); then all of the k ranks do this:

1. Rank c mod k scores chunk c of the window (``scores``). Scores are exchanged, so all pick the
   same points.
2. Micro-batch j is rows j::m of the batch; rank r computes micro-batches r m/k to (r + 1) m/k - 1.
   All ranks read the whole batch, as padding may depend on it.
3. Gradients, losses and BatchNorm statistics are summed in one binary tree over the micro-batches
   (``gloo``): inside a rank on a stack of partial sums, across ranks by vector halving with
   distance doubling, then exchanged. With ``trainer.reduce = "fast"`` a library sums those of the
   ranks (``fast``).
4. Each rank takes the optimizer's step and loads its own weights into its replica.

Under ``trainer.parallel = "fsdp"`` (``shards``) a rank has a part of the model. Then torch gathers
layers and sums gradients, and the new weights are gathered before they are loaded or published.
"""

from rhoselect.ranks.group import Alone, Exchange, Group

__all__ = ["Alone", "Exchange", "Group"]
