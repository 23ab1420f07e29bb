"""The plan that a configuration names, over the points of a split."""

from __future__ import annotations

from rhoselect.config import Config
from rhoselect.data import SplitPoints
from rhoselect.plan.shuffled import Plan
from rhoselect.plan.streamed import StreamedPlan


def open_plan(config: Config, points: SplitPoints) -> Plan:
    """The plan over ``points`` that ``data.order`` names.

    Raises ConfigError for a window beyond the points, and if the cache of a remote data set cannot
    hold what the order keeps in use, so that every window would fetch its shards again.
    """
    seed, n_B, chunk = config.seed, config.selection.n_B, config.selection.chunk
    n = len(points)
    if config.data.order == "shuffled":
        points.check_room(n, "the train split in data.order 'shuffled'")
        return Plan(seed, n, n_B, chunk, first_index=points.start)
    blocks = config.data.stream_blocks
    plan = StreamedPlan(seed, n, n_B, chunk, points.block_rows, blocks, first_index=points.start)
    rows = plan.group_rows * (1 + -(-n_B // plan.group_rows))
    points.check_room(rows, f"two groups of data.stream_blocks = {blocks} shards")
    return plan
