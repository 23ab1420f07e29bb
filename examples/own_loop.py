"""A training loop of your own, with the points that rhoselect selects.

    python examples/own_loop.py CONFIG.toml            # scores in this process
    python examples/own_loop.py CONFIG.toml ADDRESS    # asks `rhoctl serve CONFIG.toml --workers 2`

CONFIG.toml may be examples/fashion-mnist.toml once `make train` has made its data; `rhoctl serve`
prints its address. Either way the points are those of `rhoctl train CONFIG.toml`.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from rhoselect.client import SelectionClient
from rhoselect.config import load
from rhoselect.inputs import open_inputs

run = open_inputs(load(Path(sys.argv[1])))
model, settings = run.new_model(), run.config.trainer
optimizer = torch.optim.AdamW(model.parameters(), settings.lr, fused=True)
torch.set_num_threads(settings.threads)  # more threads, other last bits
where = {"address": sys.argv[2]} if sys.argv[2:] else {"local": True, "config": sys.argv[1]}

selection = SelectionClient(model, **where)
for batch in selection:
    losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    optimizer.zero_grad()
    (losses * batch.weights).mean().backward()
    optimizer.step()
    selection.step(model)

test = run.test.read(run.test.indices, torch.device("cpu"))
accuracy = (model.eval()(test.inputs).argmax(1) == test.labels).double().mean()
print(f"test accuracy {accuracy:.4f}")
