"""What all tests share: random numbers and threads that are the same on every machine; a tiny data
set, its irreducible losses and a configuration, made once a session, read only."""

from __future__ import annotations

import os

# The suite's results are a CPU's, in all its processes, also where "auto" would find a GPU.
if os.environ.get("RHOSELECT_GPU_TESTS") != "cuda":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from rhoselect import compute
from rhoselect.config import parse
from rhoselect.data import open_arrow
from rhoselect.data.il_table import IlMetadata, IlTable, write_table
from rhoselect.importers import write_dataset
from support import CLASSES, made, patches
from task_runs import CONFIG
from warm import warm_folder


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of the property tests, so that the header can tell it, and give them no
    deadline, because a busy machine would miss it."""
    too_slow = [HealthCheck.too_slow]
    settings.register_profile("tests", settings(), deadline=None, suppress_health_check=too_slow)
    settings.load_profile("tests")
    if config.option.hypothesis_seed is None and not settings().derandomize:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    """How to repeat the property tests. With CI set, Hypothesis takes the same examples always."""
    if settings().derandomize:
        return "property tests: the same examples in every session"
    return f"property tests: --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Each test starts with the same random numbers and threads: those depend neither on the tests
    before it nor on the number of cores."""
    torch.default_generator.manual_seed(0)
    torch.set_num_threads(2)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own: a loop without ``run_dir`` leaves its folder below it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", params=[False, True], ids=["without bf16", "with bf16"])
def fast_bf16(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether this process believes that its hardware has bf16, which precision "auto" asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "has_fast_bf16", lambda device: request.param)
        yield request.param


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default of ``data.cache_dir``, away from the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "rhoselect"


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 train, 200 holdout and 100 test images [1, 16, 16] of 4 classes, 10% label noise."""
    folder = tmp_path_factory.mktemp("data") / "patches"
    write_dataset(folder, "image", patches(), CLASSES, label_noise=0.1)
    return folder


@pytest.fixture(scope="session")
def il_table(dataset_dir: Path) -> Path:
    """Irreducible losses of ``dataset_dir``."""
    table = dataset_dir.with_name("il.parquet")
    model = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=16")
    made(
        "il", "fit", "--data", dataset_dir, "--out", table, *model, "--epochs", "1", "--batch", "64"
    )
    return table


@pytest.fixture(scope="session")
def il_weights(dataset_dir: Path) -> Path:
    """An irreducible-loss model of width 16 in a file, after three steps."""
    path = dataset_dir.with_name("updated.safetensors")
    out = ("--out", path.with_suffix(".parquet"), "--weights-out", path)
    model = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=16")
    made("il", "fit", "--data", dataset_dir, *model, *out, "--epochs", "1", "--batch", "64")
    return path


@pytest.fixture(scope="session")
def tiny_config(dataset_dir: Path, il_table: Path) -> Path:
    """A configuration of 20 steps on ``dataset_dir``. Its result does not depend on whether the
    machine has bf16."""
    path = dataset_dir.with_name("tiny.toml")
    path.write_text(
        f"""
seed = 0

[data]
path = "{dataset_dir}"

[model]
factory = "rhoselect.models:mlp"
args = {{ width = 32 }}

[il]
table = "{il_table}"

[selection]
n_b = 8
n_B = 64
chunk = 16

[scorer]
precision = "fp32"

[trainer]
steps = 20
eval_every = 10
checkpoint_every = 10

[metrics]
port = -1
"""
    )
    return path


@pytest.fixture(scope="session")
def task_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of 8 steps, without data: for the settings of ``task_runs``."""
    path = tmp_path_factory.mktemp("tasks") / "run.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def mixed_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on noisy, skewed data with duplicates, by irreducible losses that know which
    labels are wrong: 3 nats for those, 0.01 for the others."""
    folder = tmp_path_factory.mktemp("mixed")
    data, table, run = folder / "data", folder / "il.parquet", folder / "run"
    arrays = {
        f"{axis}_{split}": values
        for split, both in patches().items()
        for axis, values in zip("xy", both, strict=True)
    }
    np.savez(folder / "points.npz", **arrays)
    mix = ("--label-noise", "0.2", "--relevance", "2:0.5", "--duplicates", "2:0.25")
    made("data", "import", "numpy", folder / "points.npz", data, *mix)
    opened = open_arrow(parse({"data": {"path": str(data)}}).data)
    train = opened.split("train")
    wrong = train.labels(train.indices) != train.clean_labels(train.indices)
    losses = np.where(wrong, 3.0, 0.01).astype(np.float32)
    holdout = opened.splits["holdout"]
    metadata = IlMetadata(
        opened.fingerprint, "known", "", "holdout", holdout, "fp32", "", "", 7.0, 11
    )
    write_table(table, IlTable(train.start, losses, metadata))
    keys = [f"data.path={data}", f"il.table={table}", "trainer.steps=60", "trainer.lr=3e-3"]
    made("train", tiny_config, "--run-dir", run, *(word for key in keys for word in ("--set", key)))
    return run


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray cluster for all runs of the session in this process; runs join it. Its processes find
    the modules beside this one."""
    from rhoselect.runtime.ray.cluster import ray_session

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with pytest.MonkeyPatch.context() as its_python:
            its_python.setattr(sys, "executable", str(warm_folder() / "python"))
            stack.enter_context(ray_session("local", workers=5))
        yield


@pytest.fixture(scope="session")
def ray_address(ray_session: None) -> str:
    """The address of that cluster, for commands in processes of their own: they find its token in
    the environment, and need a ``queue.url``. To start a cluster takes seconds of a core."""
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address
