"""Points: data sets on disk (Arrow), torch data sets by import path, and importers.

Start at ``open_data``. ``base`` says what a data set is to the loops.
"""

from rhoselect.config import DataConfig
from rhoselect.data.arrow import ArrowDataset, DatasetPoints
from rhoselect.data.base import Dataset, Labels, SplitPoints
from rhoselect.data.importers import KINDS, import_dataset
from rhoselect.data.manifest import Encoding, Manifest, Pairs
from rhoselect.data.torch_dataset import TorchDataset, TorchPoints
from rhoselect.data.writer import write_dataset

__all__ = [
    "KINDS",
    "ArrowDataset",
    "Dataset",
    "DatasetPoints",
    "Encoding",
    "Labels",
    "Manifest",
    "Pairs",
    "SplitPoints",
    "TorchDataset",
    "TorchPoints",
    "import_dataset",
    "open_arrow",
    "open_data",
    "write_dataset",
]


def open_arrow(config: DataConfig) -> ArrowDataset:
    """The Arrow data set at ``config.path``: a folder, or a URI."""
    assert config.path is not None
    if config.remote:
        return ArrowDataset.open_remote(config)
    return ArrowDataset.open(config.path.removeprefix("file://"))


def open_data(config: DataConfig) -> Dataset:
    """The data set that section ``data`` names. Raises DataError, ConfigError or WaitError."""
    if config.path is not None:
        return open_arrow(config)
    assert config.dataset is not None, "DataConfig sets exactly one of path and dataset"
    return TorchDataset(config.dataset, config.args)
