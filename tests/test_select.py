"""``rhoselect.selection.select``, against a plain sort; and the example that is built on it."""

from __future__ import annotations

import doctest
import math
import random
import re
import runpy
from pathlib import Path

import pytest
import torch

from rhoselect.errors import UserError
from rhoselect.selection import select, standalone

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("seed", range(20))
def test_selects_what_a_plain_sort_puts_first(seed: int) -> None:
    """With many ties, and with losses that are not finite."""
    drawn = random.Random(seed)
    values = [0.0, 0.5, 1.0, 2.5, NAN, INF, -INF]
    losses = [drawn.choice(values) for _ in range(64)]
    irreducible = [drawn.choice(values) for _ in range(64)]
    reducible = [a - b for a, b in zip(losses, irreducible, strict=True)]
    usable = [i for i in range(64) if math.isfinite(reducible[i])]
    expected = sorted(usable, key=lambda i: (-reducible[i], i))
    for n_b in {1, len(usable) // 2, len(usable)}:
        got = select(torch.tensor(losses), torch.tensor(irreducible), n_b)
        assert got.dtype == torch.int64
        assert got.tolist() == expected[:n_b]


def test_takes_losses_that_have_a_gradient() -> None:
    losses = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    assert select(losses, torch.zeros(3), 2).tolist() == [1, 2]


def test_the_example_in_the_docstring() -> None:
    failed, tried = doctest.testmod(standalone)
    assert (failed, tried > 0) == (0, True)


@pytest.mark.parametrize(
    ("losses", "irreducible", "n_b", "said"),
    [
        (torch.zeros(4), torch.zeros(3), 1, "got losses [4] and irreducible losses [3]"),
        (torch.zeros(()), torch.zeros(()), 1, "got losses [] and"),
        (torch.zeros(2, 2), torch.zeros(2, 2), 1, "one loss per candidate"),
        (torch.zeros(4), torch.zeros(4), 0, "got n_b = 0 and 4 of 4"),
        (torch.zeros(4), torch.zeros(4), 5, "got n_b = 5 and 4 of 4"),
        (torch.tensor([NAN, 1, INF]), torch.zeros(3), 2, "1 of 3 candidates"),
        (torch.tensor([NAN, NAN]), torch.zeros(2), 1, "0 of 2 candidates"),
    ],
)
def test_bad_input_is_named(
    losses: torch.Tensor, irreducible: torch.Tensor, n_b: int, said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        select(losses, irreducible, n_b)


def test_the_example_in_plain_torch_is_ahead_of_uniform_in_every_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "rho_loss.py"))
    torch.set_num_threads(threads)
    printed = re.findall(r"(\S+), step (\d+): test accuracy (\S+)", capsys.readouterr().out)
    accuracy = {(method, int(step)): float(value) for method, step, value in printed}
    assert len(accuracy) == 6
    for step in (100, 200, 300):
        assert accuracy["RHO-LOSS", step] > accuracy["uniform", step]
    assert accuracy["RHO-LOSS", 100] > accuracy["uniform", 200]
