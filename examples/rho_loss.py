"""RHO-LOSS in plain torch, on data made here: 80% of the points are redundant, 20% are mislabelled.

    python examples/rho_loss.py

Uniform and RHO-LOSS training take the same number of steps of 32 points. RHO-LOSS looks at 320
candidates in each step to choose the 32 with the greatest reducible loss.
"""

import torch
import torch.nn.functional as F

from rhoselect.selection import select

CLASSES, CLUSTERS, SIZE, STEPS, n_b, n_B = 10, 8, 32, 300, 32, 320
torch.manual_seed(0)
torch.set_num_threads(1)  # the matrices are small
centers = torch.randn(CLASSES, CLUSTERS, SIZE)  # each class consists of eight clusters of points


def make(n, redundant=0.0, mislabelled=0.0):
    """n points: a share of them in the first cluster of their class, a share with a wrong label."""
    labels, cluster = torch.randint(CLASSES, (n,)), torch.randint(CLUSTERS, (n,))
    cluster[torch.rand(n) < redundant] = 0
    inputs = centers[labels, cluster] + 0.5 * torch.randn(n, SIZE)
    wrong = torch.rand(n) < mislabelled
    return inputs, (labels + wrong * torch.randint(1, CLASSES, (n,))) % CLASSES


def network(width):
    layers = torch.nn.Linear(SIZE, width), torch.nn.ReLU(), torch.nn.Linear(width, CLASSES)
    model = torch.nn.Sequential(*layers)
    return model, torch.optim.AdamW(model.parameters(), lr=3e-3)


def step(model, optimizer, inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()


(x, y), holdout, test = make(20_000, 0.8, 0.2), make(20_000, 0.8, 0.2), make(4_000)
small, optimizer = network(width=128)  # learns from the holdout only
for indices in torch.randperm(len(holdout[1])).split(64):
    step(small, optimizer, holdout[0][indices], holdout[1][indices])
with torch.no_grad():  # computed once, before training
    irreducible_losses = F.cross_entropy(small(x), y, reduction="none")

for method in "uniform", "RHO-LOSS":
    model, optimizer = network(width=512)
    for t in range(1, STEPS + 1):
        batch = torch.randint(len(y), (n_B,))  # the candidates
        if method == "RHO-LOSS":
            with torch.no_grad():
                losses = F.cross_entropy(model(x[batch]), y[batch], reduction="none")
            batch = batch[select(losses, irreducible_losses[batch], n_b)]
        step(model, optimizer, x[batch[:n_b]], y[batch[:n_b]])
        if t % 100 == 0:
            accuracy = (model(test[0]).argmax(1) == test[1]).float().mean()
            print(f"{method}, step {t}: test accuracy {accuracy:.3f}")
