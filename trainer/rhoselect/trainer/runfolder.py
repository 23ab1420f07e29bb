"""The run folder: what a run leaves on disk, and the fence that keeps an old trainer out of it.

config.toml       the resolved configuration, with absolute paths
kind              "trained" by rhoctl train, "served" to a loop of the user's, or of a "local" one
lock              held by the process that drives the run: see ``driver``
run_id            a random name: the run's keys on a shared queue server
inputs_sha256     of the data set's fingerprint, the irreducible losses, the weights to begin with
generations/      one empty file a trainer generation; the highest owns the folder
hardware/         what the generations computed on: see ``trainer.hardware``
checkpoints/      step-000000500.safetensors …; folders if the model is divided: see ``parts``
steps/            parts of steps.parquet that end with each checkpoint
adapter/          of a model of PEFT's, in its own form: see ``trainer.adapters``
eval.jsonl, steps.parquet, model.safetensors, model-live.safetensors, summary.json, logs/
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError

from rhoselect import config as configuration
from rhoselect.config import Config, resolve
from rhoselect.errors import (
    ConfigError,
    FencedError,
    RunFolderError,
    StorageError,
    listed,
    shortened,
)
from rhoselect.files import check_readable, replacing
from rhoselect.selector.fence import Fence, NoFence
from rhoselect.trainer.driver import check_ended, driver_of
from rhoselect.trainer.resuming import Kind, check_kind, how_to_resume, kind_of


@dataclass(frozen=True)
class RunFolder:
    """A run folder as seen by one trainer generation. ``queue`` is a second fence: a network
    file system may show the file of a newer generation late."""

    path: Path
    run_id: str
    generation: int
    queue: Fence = field(default=NoFence(), compare=False, repr=False)

    @staticmethod
    def create(
        path: Path, config: Config, inputs_sha256: str = "", kind: Kind = "trained"
    ) -> RunFolder:
        """Make a new run folder. A resume compares ``inputs_sha256`` to make sure that points and
        irreducible losses are the same. Raises RunFolderError if ``path`` exists or cannot be made.
        """
        check_absent(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            for name in ("generations", "checkpoints", "steps", "logs"):
                (beside / name).mkdir(parents=True)
            (beside / "config.toml").write_text(config.to_toml(), "utf-8")
            (beside / "kind").write_text(kind, "utf-8")
            (beside / "run_id").write_text(secrets.token_hex(8), "utf-8")
            (beside / "inputs_sha256").write_text(inputs_sha256, "utf-8")
            beside.rename(path)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise RunFolderError(
                f"run folder {path}: cannot be made: {error.strerror}; choose another --run-dir"
            ) from None
        return RunFolder._take_over(path)

    @staticmethod
    def resume(path: Path) -> RunFolder:
        """Take over an existing run folder as its next generation. Call ``check_resume`` first."""
        folder = RunFolder._take_over(path)
        for half_written in (*path.glob("checkpoints/.step-*"), *path.glob("steps/.part-*")):
            # Keep the files of a newer generation, which may be writing by now.
            if int(half_written.suffix[1:]) < folder.generation:
                remove(half_written)
        return folder

    @staticmethod
    def newest(path: Path) -> RunFolder:
        """An existing run folder, with its newest generation."""
        names = (entry.name for entry in (path / "generations").iterdir())
        # A file browser or a network file system leaves files of its own there.
        generation = max((int(name) for name in names if name.isdecimal()), default=0)
        return RunFolder(path, (path / "run_id").read_text("utf-8"), generation)

    @staticmethod
    def _take_over(path: Path) -> RunFolder:
        newest = RunFolder.newest(path)
        generation = newest.generation + 1
        while True:
            try:
                (path / "generations" / str(generation)).touch(exist_ok=False)
                return replace(newest, generation=generation)
            except FileExistsError:
                generation += 1

    def check_fence(self) -> None:
        """Raise FencedError if a newer trainer owns this folder."""
        if (self.path / "generations" / str(self.generation + 1)).exists():
            raise FencedError(
                f"run folder {self.path}: a newer trainer than generation {self.generation} owns"
                " it; this one stops without touching it"
            )
        self.queue.check_fence()


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def discard_unused(path: Path) -> None:
    """Remove a run folder in which training has not begun, so that nothing half made is left."""
    if not (path / "eval.jsonl").exists():  # the trainer's first file
        shutil.rmtree(path, ignore_errors=True)


def default_run_dir(name: str) -> Path:
    """A new folder below runs/: the random end tells runs apart that start in the same second."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def check_absent(path: Path) -> None:
    """Raise RunFolderError if a new run cannot be made at ``path``."""
    if path.exists():
        is_run = (path / "config.toml").exists()
        more = f", or continue it with: {how_to_resume(path)}" if is_run else ""
        if is_run and not _is_begun(path):
            more = f", or delete this one, which has no checkpoint{more}"
        raise RunFolderError(
            f"run folder {path}: exists; allowed a new one; choose another --run-dir{more}"
        )


def _is_begun(path: Path) -> bool:
    """Whether a run goes on, or has steps to go on from. A loop keeps its weights elsewhere."""
    driver = driver_of(path)
    ended = driver is not None and driver.lives is False
    return not ended or kind_of(path) != "trained" or any((path / "checkpoints").glob("step-*"))


def stored_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """The configuration in a run's folder. Raises RunFolderError if there is none, or if this
    version cannot use it, and OSError if it may not be read."""
    try:
        check_readable(path / "config.toml")
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(
            f"run folder {path}: has no config.toml; allowed a folder of a run"
        ) from None
    try:
        return configuration.load(path / "config.toml", overrides)
    except ConfigError as error:
        raise RunFolderError(
            f"run folder {path}: its config.toml cannot be used: {error}; a run of an earlier"
            " version can be resumed and exported by that version only"
        ) from None


def check_resume(
    path: Path, given: Path | None, overrides: Iterable[str], kind: Kind = "trained"
) -> Config:
    """The configuration to resume ``path`` with: ``given``, or its own, with ``overrides``.

    Raises RunFolderError if the folder is not that of a run of this kind, if a process runs it, or
    if keys changed that the result depends on, and OSError if a checkpoint may not be read.
    """
    stored = stored_config(path)
    check_kind(path, kind)
    check_ended(path)
    for entry in (path / "checkpoints").iterdir():
        if entry.match("step-*"):
            check_readable(entry)
    stored = resolve(stored)
    config = resolve(configuration.load(given or path / "config.toml", overrides))
    changed = stored.changed_keys(config)
    if _more_steps(stored, config):
        changed.remove("trainer.steps")
    if changed:
        raise RunFolderError(
            f"run folder {path}: --resume with a changed configuration: {listed(changed)};"
            " allowed the values in its config.toml (or more trainer.steps, if trainer.schedule is"
            ' "constant")'
        )
    return config


def _more_steps(stored: Config, config: Config) -> bool:
    """Whether a run is to take more steps than it was made for. With a schedule but "constant"
    the rates of the steps that it has taken depend on their number."""
    return config.trainer.steps > stored.trainer.steps and config.trainer.schedule == "constant"


def check_inputs(path: Path, inputs_sha256: str) -> None:
    """Raise RunFolderError if a run would be resumed on other points, losses or first weights."""
    if (path / "inputs_sha256").read_text("utf-8") != inputs_sha256:
        raise RunFolderError(
            f"run folder {path}: got other data or irreducible losses (or first weights) than it"
            " began with; allowed the same contents of data.path, il.table and"
            " model.weights, and the same frozen parameters with snapshots.only = 'trainable';"
            " restore them or start a new run"
        )


def put(folder: RunFolder, path: Path, write: Callable[[Path], object]) -> None:
    """Replace ``path`` by the file that ``write`` makes at the path given to it: see ``replacing``.

    Raises FencedError, and leaves ``path`` as it was, once a newer trainer owns the folder.
    """
    folder.check_fence()
    with replacing(path, folder.generation, folder.check_fence) as beside:
        write(beside)


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    """Turn errors of writes to a run folder into StorageError, or into FencedError if a newer
    trainer owns the folder and has removed files."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        folder.check_fence()
        reason, path = shortened(str(error)), folder.path
        raise StorageError(
            f"run folder {path}: cannot be written ({reason}); make room, then go on from the last"
            f" checkpoint with: {how_to_resume(path)}"
        ) from None
