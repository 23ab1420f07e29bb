"""The plan of a run: which point is a candidate at which plan position."""

from rhoselect.plan.opening import open_plan
from rhoselect.plan.shuffled import Plan
from rhoselect.plan.streamed import StreamedPlan

__all__ = ["Plan", "StreamedPlan", "open_plan"]
