"""The second network of a run: its file, checked against the data set and the configuration."""

from __future__ import annotations

from pathlib import Path

from rhoselect.config import Config
from rhoselect.data import Dataset
from rhoselect.data.il_table import check_overlap
from rhoselect.errors import ConfigError
from rhoselect.models.reference import ReferenceFile


def open_reference(config: Config, dataset: Dataset) -> ReferenceFile:
    """The file of the second network. Raises UserError unless it suits the data set and the run."""
    path, function = config.il.weights, config.selection.function
    if path is None:
        raise ConfigError(
            f"il.weights: missing, selection.function {function!r} needs it; make one with 'rhoctl"
            " il fit --weights-out FILE' and set il.weights"
        )
    reference = ReferenceFile.open(Path(path), dataset.fingerprint, config.data_keys)
    if config.il.overlap != "allow":
        check_overlap(f"il.weights {path}", reference.metadata.learnt, dataset.splits["train"])
    return reference
