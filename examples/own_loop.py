"""RHO-LOSS in a loop of your own, in one process: python examples/own_loop.py CONFIG.toml STEPS."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from rhoselect.config import load
from rhoselect.launch.wiring import prepare
from rhoselect.models import mlp

run = prepare(load(Path(sys.argv[1])))  # data, irreducible losses and plan, all checked
model = mlp(input_shape=run.dataset.input_shape, classes=run.dataset.classes)
optimizer, il, cpu = torch.optim.AdamW(model.parameters()), run.scoring.il, torch.device("cpu")
for step in range(int(sys.argv[2])):
    candidates = run.train.index_of(run.plan.indices(run.plan.window(step)))  # n_B of them
    batch = run.train.read(candidates, cpu)
    with torch.no_grad():
        losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    best = (losses - torch.from_numpy(il.at(candidates))).topk(run.config.selection.n_b).indices
    optimizer.zero_grad()
    F.cross_entropy(model(batch.inputs[best]), batch.labels[best]).backward()
    optimizer.step()

test = run.test.read(run.test.indices, cpu)
print(f"test accuracy {(model(test.inputs).argmax(1) == test.labels).float().mean():.4f}")
