"""What a run works on, checked before it starts: start at ``open_inputs``."""

from rhoselect.inputs.opening import open_inputs
from rhoselect.inputs.run_inputs import RunInputs, SelectionInputs

__all__ = ["RunInputs", "SelectionInputs", "open_inputs"]
