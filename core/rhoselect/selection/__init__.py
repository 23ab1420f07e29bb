"""What makes a candidate worth a step: score functions, the pick, and the scoring of points."""

from rhoselect.selection.functions import get_function
from rhoselect.selection.interface import Needs, Picked, ScoreFunction, ScoreInputs, Shortlist
from rhoselect.selection.scoring import Forward, Scoring
from rhoselect.selection.standalone import select

__all__ = [
    "Forward",
    "Needs",
    "Picked",
    "ScoreFunction",
    "ScoreInputs",
    "Scoring",
    "Shortlist",
    "get_function",
    "select",
]
