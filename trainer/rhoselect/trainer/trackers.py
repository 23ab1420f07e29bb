"""Weights & Biases and MLflow as trackers of a run. Their own environment variables say where the
figures go. A resumed run goes on in the one that it had there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rhoselect.errors import ConfigError
from rhoselect.importing import one_line
from rhoselect.trainer.runfolder import stored_config

PROJECT = "rhoselect"
"""The project, or experiment, unless the environment names one."""
EVERY_S = 2.0  # between two requests to MLflow, each of which a step waits for
MOST_PARAMS, MOST_METRICS = 100, 1000  # of one request


class WandB:
    """A run of W&B. WANDB_MODE=offline writes it to ``wandb/`` of the run folder.

    Figures are over ``step``, which is one of them: W&B would drop those of an own step that is
    smaller than the last, as after a resume. Raises ConfigError.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._wandb = folder, import_module("wandb")
        self._run: Any = self._opened()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values; after ``close`` in another part of the same run."""
        if self._run is None:
            self._run = self._opened()
        self._run.log({**values, "step": step})

    def close(self) -> None:
        """Wait until W&B has everything, offline in its file."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _opened(self) -> Any:
        try:
            run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=_run_id(self._folder),
                name=self._folder.name,
                dir=self._folder,
                resume="allow",
                config=stored_config(self._folder).model_dump(mode="json"),
                settings=self._wandb.Settings(quiet=True, console="off"),
            )
        except self._wandb.Error as error:
            raise ConfigError(
                f"trainer.tracker: W&B cannot begin a run ({one_line(error)}), allowed with a"
                " login; call 'wandb login', or set WANDB_MODE=offline"
            ) from None
        run.define_metric("*", step_metric="step")
        return run


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI (such as sqlite:///mlflow.db, or a server), in the
    experiment MLFLOW_EXPERIMENT_NAME. A store that fails later costs figures, not the run. Raises
    ConfigError."""

    def __init__(self, folder: Path, step: int) -> None:
        mlflow: Any = import_module("mlflow")
        self._made, self._failures = mlflow.entities, mlflow.exceptions.MlflowException
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        try:
            self._client = mlflow.tracking.MlflowClient()
            self._id = self._begun(folder)
        except self._failures as error:
            raise ConfigError(
                f"trainer.tracker: MLflow cannot open its store ({one_line(error)}), allowed one"
                " that it can; set MLFLOW_TRACKING_URI, as in sqlite:///mlflow.db"
            ) from None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values, with those of the next two seconds."""
        now = int(1e3 * time.time())
        self._waiting += [self._made.Metric(n, v, now, step) for n, v in values.items()]
        if time.monotonic() - self._sent > EVERY_S:
            self._send()

    def close(self) -> None:
        """Send what waits, and end the run."""
        self._send()
        try:
            self._client.set_terminated(self._id)
        except self._failures as error:
            logging.warning("trainer.tracker: MLflow did not end its run (%s)", one_line(error))

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            for some in _parts(waiting, MOST_METRICS):
                self._client.log_batch(self._id, metrics=some)
        except self._failures as error:
            logging.warning("trainer.tracker: MLflow lost figures (%s)", one_line(error))
        self._sent = time.monotonic()

    def _begun(self, folder: Path) -> str:
        """The id of the run that this run folder has there, or of a new one."""
        name, tag = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), "rhoselect.run_id"
        known, own = self._client.get_experiment_by_name(name), _run_id(folder)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{tag}` = '{own}'", max_results=1)
        if found:
            run = str(found[0].info.run_id)
            self._client.update_run(run, status="RUNNING")
            return run
        made = self._client.create_run(experiment, tags={tag: own}, run_name=folder.name)
        settings = dict(_flat(stored_config(folder).model_dump(mode="json")))
        params = [self._made.Param(key, str(value)) for key, value in settings.items()]
        for some in _parts(params, MOST_PARAMS):
            self._client.log_batch(made.info.run_id, params=some)
        return str(made.info.run_id)


def _run_id(folder: Path) -> str:
    return (folder / "run_id").read_text("utf-8")


def _parts(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + most] for start in range(0, len(items), most))


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a configuration with their sections, as in "trainer.lr"."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
