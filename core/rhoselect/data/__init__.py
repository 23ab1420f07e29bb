"""Points: data sets on disk (Arrow), torch data sets by import path, and importers.

Start at ``open_data``. ``base`` says what a data set is to the loops.
"""

from rhoselect.config import DataConfig
from rhoselect.data.arrow import ArrowDataset, DatasetPoints
from rhoselect.data.base import Dataset, Labels, SplitPoints
from rhoselect.data.importers import KINDS, import_dataset
from rhoselect.data.manifest import Manifest
from rhoselect.data.torch_dataset import TorchDataset, TorchPoints
from rhoselect.data.writer import write_dataset

__all__ = [
    "KINDS",
    "ArrowDataset",
    "Dataset",
    "DatasetPoints",
    "Labels",
    "Manifest",
    "SplitPoints",
    "TorchDataset",
    "TorchPoints",
    "import_dataset",
    "open_data",
    "write_dataset",
]


def open_data(config: DataConfig) -> Dataset:
    """The data set that section ``data`` names. Raises DataError or ConfigError."""
    if config.path is not None:
        return ArrowDataset.open(config.path)
    assert config.dataset is not None, "DataConfig sets exactly one of path and dataset"
    return TorchDataset(config.dataset, config.args)
