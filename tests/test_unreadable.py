"""What this user may not read is told from what is missing or broken, and never advised to be
removed or made again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rhoselect import config as configuration
from rhoselect.data import ArrowDataset, open_data
from rhoselect.data.cache import Cache
from rhoselect.inputs import open_inputs
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.checkpoint import Checkpoint, Progress
from rhoselect.trainer.runfolder import RunFolder
from support import patches, rhoctl

ANOTHER_USER = 65534
HARMFUL = r"remove|no such|not found|missing|again|no run is going on|has no|earlier version"


@contextmanager
def as_another_user() -> Iterator[None]:
    """A user who does not own the files: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(ANOTHER_USER)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(scope="module")
def ground(
    dataset_dir: Path, il_table: Path, il_weights: Path, tiny_config: Path
) -> Iterator[Path]:
    """Inputs and a run with a checkpoint, in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        folder = Path(scratch)
        folder.chmod(0o777)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        shutil.copytree(dataset_dir, folder / "data")
        shutil.copy(il_table, folder / "il.parquet")
        shutil.copy(il_weights, folder / "il.safetensors")
        shutil.copy(tiny_config, folder / "run.toml")
        (folder / "secret").write_text("0123456789abcdef\n")
        (folder / "images" / "train" / "a").mkdir(parents=True)
        (folder / "images" / "test" / "a").mkdir(parents=True)
        (folder / "images" / "train" / "a" / "x.png").write_bytes(b"")
        np.savez(folder / "points.npz", x_train=patches()["train"][0])
        inputs = open_inputs(configuration.load(folder / "run.toml", keys(folder)))
        run = RunFolder.create(folder / "run", inputs.config, inputs.sha256)
        checkpoints.Staged(Checkpoint(Progress(5), {}, {}, [])).write(run, keep=1)
        (run.path / "control.json").write_text(json.dumps({"pid": 1}))
        # As root: these commands import modules that the other user may not read.
        for build in {
            *CASES.values(),
            WEIGHTS,
        }:  # they import modules, which the other user may not read
            rhoctl(*build(folder))
        yield folder


def keys(folder: Path) -> list[str]:
    return [f"data.path={folder}/data", f"il.table={folder}/il.parquet"]


def train(folder: Path, *more: str) -> list[str]:
    sets = [word for key in (*keys(folder), *more) for word in ("--set", key)]
    return ["train", f"{folder}/run.toml", "--run-dir", f"{folder}/new", "--dry-run", *sets]


def resume(folder: Path) -> list[str]:
    return ["train", "--resume", "--run-dir", f"{folder}/run", "--dry-run"]


Build = Callable[[Path], list[str]]
CASES: dict[str, Build] = {
    "run.toml": train,
    "data": train,
    "data/manifest.json": train,
    "data/*.arrow": train,
    "il.parquet": train,
    "il.safetensors": lambda f: train(
        f,
        "selection.function=updated_reducible_loss",
        f"il.weights={f}/il.safetensors",
    ),
    "secret": lambda f: train(f, f"service.token_file={f}/secret"),
    "run": resume,
    "run/config.toml": resume,
    "run/checkpoints": resume,
    "run/checkpoints/*": resume,
    "run/inputs_sha256": resume,
    "run/control.json": lambda f: ["status", f"{f}/run"],
    "run/summary.json": lambda f: ["report", f"{f}/run"],
    "images": lambda f: ["data", "import", "image-folder", f"{f}/images", f"{f}/made"],
    "images/train/a": lambda f: ["data", "import", "image-folder", f"{f}/images", f"{f}/made"],
    "images/train/a/x.png": lambda f: [
        *("data", "import", "image-folder", f"{f}/images", f"{f}/made"),
    ],
    "points.npz": lambda f: ["data", "import", "numpy", f"{f}/points.npz", f"{f}/made"],
}
WEIGHTS: Build = lambda f: train(f, f"model.weights={f}/il.safetensors")  # noqa: E731


@pytest.mark.parametrize(
    ("locked", "build"),
    [*CASES.items(), ("il.safetensors", WEIGHTS)],
    ids=[*CASES, "first weights"],
)
def test_it_is_said_and_nothing_harmful_is_advised(ground: Path, locked: str, build: Build) -> None:
    if locked == "run/summary.json":
        (ground / locked).write_text("{}")
    [path] = list(ground.glob(locked))[:1]
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with as_another_user():
            result = rhoctl(*build(ground))
    finally:
        path.chmod(mode)
        (ground / "run" / "summary.json").unlink(missing_ok=True)
    assert result.code in (1, 2) and result.err.count("\n") == 1, result
    assert "ermission denied" in result.err and path.name in result.err
    assert not any(word in result.err for word in HARMFUL.split("|")), result.err


def test_users_share_a_cache_of_shards(ground: Path) -> None:
    """What one has fetched another one reads: he may not set its time of use, or write to it."""
    dataset = open_data(configuration.load(None, keys(ground)).data)
    assert isinstance(dataset, ArrowDataset)
    [shard, *_] = dataset.manifest.shards
    folder = ground / "shards"
    cache = Cache(folder, limit_bytes=shard.bytes)
    content = (ground / "data" / shard.file).read_bytes()
    cache.get(shard, lambda file: file.write(content) and None, timeout_s=1.0)
    with as_another_user():
        path = Cache(folder, limit_bytes=shard.bytes).get(shard, refuse, timeout_s=1.0)
        assert path.read_bytes() == content


def refuse(_: object) -> None:
    raise AssertionError("fetched although it is there")


def test_a_folder_of_checkpoints_that_may_not_be_read_is_no_new_start(ground: Path) -> None:
    """Without them the run would begin again at step 0."""
    folder = ground / "run" / "checkpoints"
    folder.chmod(0)
    try:
        with as_another_user(), pytest.raises(PermissionError):
            checkpoints.load_newest(ground / "run")
    finally:
        folder.chmod(0o755)
    assert checkpoints.load_newest(ground / "run") is not None
