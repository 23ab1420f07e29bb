"""A data-parallel training loop of your own: each process learns its share of one selection.

    torchrun --nproc-per-node 2 examples/data_parallel.py CONFIG.toml            # all score
    torchrun --nproc-per-node 2 examples/data_parallel.py CONFIG.toml ADDRESS    # `rhoctl serve`
    SHARDED=1 torchrun --nproc-per-node 2 examples/data_parallel.py CONFIG.toml  # FSDP

The number of processes must divide selection.n_b. With GPUs each process takes one.
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from rhoselect.client import SelectionClient
from rhoselect.config import load
from rhoselect.data import open_data
from rhoselect.models import configured_model

distributed.init_process_group()
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)

config = load(Path(sys.argv[1]))
data = open_data(config.data)
model = configured_model(config.model, data.input_shape, data.classes, config.seed).to(device)
if os.environ.get("SHARDED"):
    fully_shard(model, mesh=init_device_mesh(device.type, (distributed.get_world_size(),)))
else:
    model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), config.trainer.lr, fused=True)
torch.set_num_threads(config.trainer.threads)
where = {"address": sys.argv[2]} if sys.argv[2:] else {"local": True, "config": sys.argv[1]}

selection = SelectionClient(model, **where)
for batch in selection:  # of rank r of k: rows r::k of the selected points
    losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    optimizer.zero_grad()
    (losses * batch.weights).mean().backward()  # the ranks' gradients are averaged
    optimizer.step()
    selection.step(model)

test = data.split("test")
points = test.read(test.indices, device)
with torch.no_grad():
    accuracy = (model.eval()(points.inputs).argmax(1) == points.labels).double().mean()
selection.log(config.trainer.steps, accuracy=accuracy)  # by rank 0, into the run folder
if distributed.get_rank() == 0:
    print(f"test accuracy {accuracy:.4f}")
distributed.destroy_process_group()
