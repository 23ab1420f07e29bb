"""What a plain ``pip install rhoselect`` can do: without the packages of the extra "all"."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rhoselect.cli.entry import OPTIONAL


def without(packages: tuple[str, ...], code: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of ``code`` in a process that cannot import ``packages``."""
    block = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
    command = [sys.executable, "-c", block + code, *arguments]
    with TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_a_local_loop_needs_no_extra_and_an_address_names_its_own() -> None:
    code = """
import torch
from rhoselect.client import SelectionClient
from rhoselect.errors import ConfigError
from torch.utils.data import TensorDataset

model = torch.nn.Linear(4, 2)
data = TensorDataset(torch.randn(64, 4), torch.randint(2, (64,)))
config = {"selection": {"n_b": 4, "n_B": 16, "chunk": 16}, "trainer": {"steps": 2}}
given = dict(data=data, irreducible_losses=torch.zeros(64))
selection = SelectionClient(model, local=True, config=config, **given)
for batch in selection:
    selection.step(model)
    print(batch.step, len(batch.indices))
try:
    SelectionClient(model, "127.0.0.1:1")
except ConfigError as error:
    print(error)
"""
    exit_code, output, errors = without(OPTIONAL, code)
    assert (exit_code, errors) == (0, "")
    *batches, missing = output.splitlines()
    assert batches == ["0 4", "1 4"]
    assert missing.startswith("SelectionClient: got an address and no package ")
    assert missing.endswith("install it with pip install 'rhoselect[service]'")


@pytest.mark.parametrize(
    ("packages", "first", "arguments"),
    [
        (OPTIONAL, "rich|typer", ["train", "my.toml"]),
        (("matplotlib",), "matplotlib", ["report", "RUN", "--out", "page.png"]),
    ],
    ids=["no extra", "no matplotlib"],
)
def test_rhoctl_says_in_one_line_what_to_install(
    packages: tuple[str, ...], first: str, arguments: list[str], mixed_run: Path, tmp_path: Path
) -> None:
    given = [str(mixed_run) if word == "RUN" else word for word in arguments]
    code = f"import os; os.chdir({str(tmp_path)!r})\nfrom rhoselect.cli.entry import main\nmain()"
    exit_code, output, errors = without(packages, code, *given)
    assert (exit_code, output) == (2, "")
    [line] = errors.splitlines()
    assert line in [
        f"rhoctl: got no package {name!r}, which this command needs; install it with"
        " pip install 'rhoselect[all]'"
        for name in first.split("|")
    ]
    assert list(tmp_path.iterdir()) == []
