"""A loop of Lightning, with the points that rhoselect selects.

    pip install 'rhoselect[lightning]'
    python examples/lightning_loop.py CONFIG.toml            # scores in this process
    python examples/lightning_loop.py CONFIG.toml ADDRESS    # asks `rhoctl serve CONFIG.toml`

CONFIG.toml as for own_loop.py, which selects the same points.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F

from rhoselect.client import SelectionClient
from rhoselect.config import load
from rhoselect.data import open_data
from rhoselect.models import configured_model


class Learner(lightning.LightningModule):
    """Trains ``model`` on the batches of ``selection``."""

    def __init__(self, model: torch.nn.Module, selection: SelectionClient, lr: float) -> None:
        super().__init__()
        self.model, self.selection, self.lr = model, selection, lr

    def train_dataloader(self) -> "Batches":
        return Batches(self.selection)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch  # it is there

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        losses = F.cross_entropy(self.model(batch.inputs), batch.labels, reduction="none")
        return (losses * batch.weights).mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.selection.step(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.lr, fused=True)


class Batches:
    """They have a length, because Lightning would fetch one ahead of those without."""

    def __init__(self, selection: SelectionClient) -> None:
        self.selection = selection

    def __iter__(self) -> Iterator[Any]:
        return iter(self.selection)

    def __len__(self) -> int:
        return self.selection.config.trainer.steps


config = load(Path(sys.argv[1]))
data = open_data(config.data)
model = configured_model(config.model, data.input_shape, data.classes, config.seed)
torch.set_num_threads(config.trainer.threads)  # more threads, other last bits
where = {"address": sys.argv[2]} if sys.argv[2:] else {"local": True, "config": sys.argv[1]}
selection = SelectionClient(model, **where)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = lightning.Trainer(max_epochs=1, enable_model_summary=False, **quiet)
trainer.fit(Learner(model, selection, config.trainer.lr))

test = data.split("test")
points = test.read(test.indices, torch.device("cpu"))
accuracy = (model.cpu().eval()(points.inputs).argmax(1) == points.labels).double().mean()
selection.log(config.trainer.steps, accuracy=accuracy)  # into the run folder, for rhoctl report
print(f"test accuracy {accuracy:.4f}")
