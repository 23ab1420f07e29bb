"""Table 1: rank correlations of ever cheaper selection functions with the ideal one (section 4.1).

Approximation 0: predictions of deep ensembles of 5, trained to convergence, on D_t, and on D_ho
and D_t together. Each further one keeps the simplifications of those before it: 1a a single model
instead of an ensemble; 1b it is not trained to convergence, but takes one step a batch; 2 the
irreducible-loss model does not learn from D_t; 3 it is small. All score the same windows;
Approximation 0 picks the batches that D_t grows by. Printed: Spearman's correlation with
Approximation 0, mean over windows.

Kept small: Fashion-MNIST, 2,000 holdout points, MLPs of 128 units, some dozens of windows, and
ensembles that go on from their last weights, until a pass has a loss below 0.05 nats or 10 passes
are over, instead of starting anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from rhoselect.data import ArrowDataset, SplitPoints
from rhoselect.models import mlp
from rhoselect.report.origin import origin
from rhoselect.selector.audit import spearman

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import arguments
from curves import import_data

n_b, N_B, BATCH, MEMBERS, HOLDOUT = 32, 320, 64, 5, 2000
CONVERGED_NATS, MOST_PASSES = 0.05, 10
Points = tuple[Tensor, Tensor]


class Network:
    """An MLP for 28 x 28 images with its optimizer."""

    def __init__(self, seed: int, width: int = 128, lr: float = 1e-3) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = mlp(input_shape=(1, 28, 28), classes=10, width=width)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, fused=True)
        self._shuffle = torch.Generator().manual_seed(seed)

    def step(self, points: Points) -> float:
        """One optimizer step; the loss before it."""
        loss = F.cross_entropy(self.model(points[0]), points[1])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def fit(self, points: Points, passes: int) -> None:
        """Train until a pass has a mean loss below CONVERGED_NATS, ``passes`` at most."""
        for _ in range(passes):
            order = torch.randperm(len(points[1]), generator=self._shuffle)
            batches = order.split(BATCH)
            losses = [self.step((points[0][batch], points[1][batch])) for batch in batches]
            if np.mean(losses) < CONVERGED_NATS:
                return

    def probabilities(self, points: Points) -> Tensor:
        """Of the labels [C] that the points have."""
        with torch.no_grad():
            every = self.model(points[0]).softmax(1)
        return every.gather(1, points[1][:, None])[:, 0]


def losses(networks: list[Network], points: Points) -> np.ndarray:
    """Losses [C] in nats of the mean prediction of some networks."""
    mean = torch.stack([network.probabilities(points) for network in networks]).mean(0)
    return -mean.clamp(min=1e-12).log().double().numpy()


def joined(one: Points, other: Points) -> Points:
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])


def measure(train: SplitPoints, holdout: SplitPoints, windows: int, seed: int) -> dict[str, list]:
    """Spearman's correlation with Approximation 0 at each window, by approximation."""
    cpu, rng = torch.device("cpu"), np.random.default_rng(seed)

    def read(points: SplitPoints, indices: np.ndarray) -> Points:
        batch = points.read(indices, cpu)
        return batch.inputs, batch.labels

    order = train.index_of(rng.permutation(len(train)))
    held = read(holdout, holdout.index_of(rng.permutation(len(holdout))[:HOLDOUT]))
    trained = read(train, order[:N_B])  # D_0, so that there is something to be converged on
    ensemble = [Network(seed + member) for member in range(MEMBERS)]
    ideal_il = [Network(seed + 100 + member) for member in range(MEMBERS)]
    target, updated_il = Network(seed), Network(seed + 100, lr=1e-5)
    il, small_il = Network(seed + 100), Network(seed + 100, width=16)
    for network in (il, small_il):
        network.fit(held, 5)
    updated_il.model.load_state_dict(il.model.state_dict())
    for part in range(0, N_B, n_b):
        target.step((trained[0][part : part + n_b], trained[1][part : part + n_b]))
    found: dict[str, list] = defaultdict(list)
    for window in track(range(1, windows + 1), f"windows, seed {seed}"):
        for network in ensemble:
            network.fit(trained, MOST_PASSES)
        for network in ideal_il:
            network.fit(joined(held, trained), MOST_PASSES)
        candidates = read(train, order[window * N_B : (window + 1) * N_B])
        ideal = losses(ensemble, candidates) - losses(ideal_il, candidates)
        now = losses([target], candidates)
        cheaper = {
            "1a": losses(ensemble[:1], candidates) - losses(ideal_il[:1], candidates),
            "1b": now - losses([updated_il], candidates),
            "2": now - losses([il], candidates),
            "3": now - losses([small_il], candidates),
        }
        for name, scores in cheaper.items():
            found[name].append(spearman(ideal, scores))
        best = torch.from_numpy(np.argsort(-ideal, kind="stable")[:n_b].copy())
        batch = candidates[0][best], candidates[1][best]
        trained = joined(trained, batch)
        target.step(batch)
        updated_il.step(batch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--windows", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = arguments.parse(parser, windows=2)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data
        if options.quick:
            data = Path(scratch) / "data"
            import_data(data, 0.1, quick=True)
        dataset = ArrowDataset.open(str(data))
        train, holdout = dataset.split("train"), dataset.split("holdout")
        by_seed = [measure(train, holdout, options.windows, seed) for seed in options.seeds]
    console = Console()
    means = {}
    for name in by_seed[0]:
        means[name] = [float(np.mean(found[name])) for found in by_seed]
        spread = ", ".join(f"{mean:.3f}" for mean in means[name])
        console.print(f"Approximation {name}: {np.mean(means[name]):.3f} (seeds: {spread})")
    if options.json is not None:
        about = {"windows": options.windows, "seeds": options.seeds, "spearman": means}
        options.json.write_text(json.dumps({**origin(), **about, "by_window": by_seed}, indent=2))


if __name__ == "__main__":
    main()
