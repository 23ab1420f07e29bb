"""A training loop of your own, with the points that rhoselect selects.

    python examples/own_loop.py CONFIG.toml            # scores in this process
    python examples/own_loop.py CONFIG.toml ADDRESS    # asks `rhoctl serve CONFIG.toml --workers 2`

CONFIG.toml may be examples/fashion-mnist.toml once `make train` has made its data; `rhoctl serve`
prints its address. Either way the points are those of `rhoctl train CONFIG.toml`. The run folder,
of `rhoctl serve` or a new one below runs/, is one for `rhoctl report` and `rhoctl export`.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from rhoselect.client import SelectionClient
from rhoselect.config import load
from rhoselect.data import open_data
from rhoselect.models import configured_model

config = load(Path(sys.argv[1]))
data = open_data(config.data)
model = configured_model(config.model, data.input_shape, data.classes, config.seed)
optimizer = torch.optim.AdamW(model.parameters(), config.trainer.lr, fused=True)
torch.set_num_threads(config.trainer.threads)  # more threads, other last bits
where = {"address": sys.argv[2]} if sys.argv[2:] else {"local": True, "config": sys.argv[1]}

selection = SelectionClient(model, **where)
for batch in selection:
    losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    optimizer.zero_grad()
    (losses * batch.weights).mean().backward()
    optimizer.step()
    selection.step(model)

test = data.split("test")
points = test.read(test.indices, torch.device("cpu"))
accuracy = (model.eval()(points.inputs).argmax(1) == points.labels).double().mean()
selection.log(config.trainer.steps, accuracy=accuracy)  # into the run folder, for rhoctl report
print(f"test accuracy {accuracy:.4f}")
