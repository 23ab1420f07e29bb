"""A training loop of your own, with the points that rhoselect selects.

    python examples/own_loop.py CONFIG.toml            # selects in this process
    rhoctl serve CONFIG.toml --workers 2               # or: prints its address, as 127.0.0.1:50051
    python examples/own_loop.py CONFIG.toml ADDRESS    # selects there

Run at the top of the source tree, CONFIG.toml may be examples/fashion-mnist.toml once `make train`
has made its data. Both select the points that `rhoctl train CONFIG.toml` does.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from rhoselect.client import SelectionClient
from rhoselect.config import load
from rhoselect.launch.wiring import new_model, prepare

run = prepare(load(Path(sys.argv[1])))
model, trainer = new_model(run), run.config.trainer
where = {"address": sys.argv[2]} if sys.argv[2:] else {"local": True, "config": sys.argv[1]}
torch.set_num_threads(trainer.threads)  # other numbers of threads have other last bits

optimizer = torch.optim.AdamW(
    model.parameters(), trainer.lr, weight_decay=trainer.weight_decay, fused=True
)
selection = SelectionClient(model, **where)
for batch in selection:
    losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    optimizer.zero_grad()
    (losses * batch.weights).mean().backward()
    optimizer.step()
    selection.step(model)

test = run.test.read(run.test.indices, torch.device("cpu"))
print(f"test accuracy {(model.eval()(test.inputs).argmax(1) == test.labels).float().mean():.4f}")
