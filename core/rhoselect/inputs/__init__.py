"""What a run works on: start at ``open_inputs``. ``check_scoring`` tries it before a run starts."""

from rhoselect.inputs.checks import check_scoring
from rhoselect.inputs.opening import check_use_of_proxy, open_dataset, open_inputs
from rhoselect.inputs.run_inputs import RunInputs, SelectionInputs

__all__ = [
    "RunInputs",
    "SelectionInputs",
    "check_scoring",
    "check_use_of_proxy",
    "open_dataset",
    "open_inputs",
]
