"""Points read by index: data sets on disk (Arrow), here or in a store, and torch data sets.

Start at ``open_data``. ``base`` says what a data set is to the loops; ``il_table`` holds each
point's irreducible loss. ``rhoselect.importers`` makes data sets from other sources.
"""

from rhoselect.config import Config, DataConfig
from rhoselect.data.arrow import ArrowDataset, DatasetPoints
from rhoselect.data.augment import Augmentation
from rhoselect.data.base import Dataset, Labels, Origins, SplitPoints
from rhoselect.data.manifest import Encoding, Manifest, Pairs
from rhoselect.data.torch_dataset import TorchDataset, TorchPoints
from rhoselect.errors import ConfigError
from rhoselect.tasks import Classification, Task

CLASSIFICATION = Classification()

__all__ = [
    "ArrowDataset",
    "Dataset",
    "DatasetPoints",
    "Encoding",
    "Labels",
    "Manifest",
    "Origins",
    "Pairs",
    "SplitPoints",
    "TorchDataset",
    "TorchPoints",
    "open_arrow",
    "open_data",
    "train_points",
]


def open_arrow(config: DataConfig) -> ArrowDataset:
    """The Arrow data set at ``config.path``: a folder, or a URI."""
    assert config.path is not None
    if config.remote:
        return ArrowDataset.open_remote(config)
    return ArrowDataset.open(config.path)


def train_points(config: Config, dataset: Dataset) -> SplitPoints:
    """The split "train", augmented as section ``augment`` says. Raises DataError or ConfigError."""
    encoding = dataset.manifest.inputs.encoding if isinstance(dataset, ArrowDataset) else None
    if config.data.resident and encoding is not None:
        raise ConfigError(
            f"data.resident: got 'device', but the images are {encoding} files, allowed for raw"
            " points alone; import the data without --encoding, or set ''"
        )
    augment = config.augment
    if not (augment.crop_padding or augment.flip):
        return dataset.split("train")
    if not isinstance(dataset, ArrowDataset):
        raise ConfigError(
            "augment: got a data.dataset, allowed with data.path alone; import the data"
        )
    return dataset.split("train", Augmentation(config.seed, augment.crop_padding, augment.flip))


def open_data(
    config: DataConfig, vocabulary: int | None = None, task: Task = CLASSIFICATION
) -> Dataset:
    """The data set that section ``data`` names, for ``task``. Reads refuse token ids that a model
    of ``vocabulary`` ids does not know. Raises DataError, ConfigError or WaitError."""
    if config.path is not None:
        dataset = open_arrow(config)
        dataset.vocabulary = vocabulary
        return dataset
    assert config.dataset is not None, "DataConfig sets exactly one of path and dataset"
    return TorchDataset(config.dataset, config.args, task, vocabulary)
