"""The cases of time_to_accuracy.py: models, their irreducible losses, and runs made only once."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from curves import Curve, Ground, learn, make_ground

N_B, RATIO = 32, 10

# A learning rate that decays to 0 within a few passes gives better irreducible losses, sooner, than
# a constant one that is stopped at its lowest loss (docs/performance.md).
IL = ["--patience", 0, "--batch", 128, "--epochs", 3]
IL += ["--set", "trainer.schedule=cosine", "--set", "trainer.lr=0.003"]
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {
        "model": {"factory": "rhoselect.models:mlp", "args": {"width": 512, "depth": 2}},
        "il": ("rhoselect.models:mlp", [*IL, "--set", "model.args.width=128"]),
        "steps": 3000,
        "grid": 25,
        "decays": True,
    },
    "small_cnn": {
        "model": {"factory": "rhoselect.models:small_cnn", "args": {}},
        "il": ("rhoselect.models:small_cnn", [*IL, "--set", "trainer.threads=2"]),
        "steps": 2000,
        "grid": 25,
        "decays": False,  # that question is the MLP's
    },
    "resnet18_small": {
        "model": {"factory": "rhoselect.models:resnet18_small", "args": {"width": 16}},
        "il": ("rhoselect.models:small_cnn", [*IL, "--set", "trainer.threads=2"]),
        # An evaluation takes as long as 90 steps here.
        "steps": 450,
        "grid": 50,
        "decays": False,
    },
    "tiny": {  # of --quick
        "model": {"factory": "rhoselect.models:mlp", "args": {"width": 128}},
        "il": ("rhoselect.models:mlp", [*IL, "--set", "model.args.width=128"]),
        "steps": 300,
        "grid": 10,
        "decays": True,
    },
}


class Case:
    """A model on a data set; its runs are made once, however many parts ask for them.

    ``options`` are those of time_to_accuracy.py.
    """

    def __init__(self, folder: Path, model: str, noise: float, options: Namespace) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._scaling = folder, options.scaling
        self.name, self.spec, self.seeds = model, MODELS[model], options.seeds
        self.devices: int = options.devices
        il_model, il_args = self.spec["il"]
        self.ground: Ground = make_ground(folder, noise, il_model, il_args, options.quick)
        self._curves: dict[str, Curve] = {}

    def curve(self, seed: int, workers: int = 0, **settings: Any) -> Curve:
        """The run of these settings (``selection__lag=1`` is selection.lag)."""
        named = {name.replace("__", "."): value for name, value in settings.items()}
        name = json.dumps([seed, workers, named], sort_keys=True)
        if name not in self._curves:
            values = {
                **self.ground.settings,
                "seed": seed,
                "model.factory": self.spec["model"]["factory"],
                "model.args": self.spec["model"]["args"],
                "selection.n_b": N_B,
                "selection.n_B": RATIO * N_B,
                "selection.chunk": 160,
                "scorer.precision": "fp32",
                "trainer.steps": self.spec["steps"] // 3,
                "trainer.eval_every": self.spec["grid"],
                "trainer.checkpoint_every": 1_000_000,
                **named,
            }
            run = self._folder / f"{self.ground.noise:g}-{len(self._curves)}"
            self._curves[name] = learn(run, values, workers)
        return self._curves[name]

    def uniform(self, seed: int, **settings: Any) -> Curve:
        steps = {"trainer__steps": self.spec["steps"], **settings}
        return self.curve(seed, selection__function="uniform", **steps)

    def measured_ms(self, train_ms: float, workers: int) -> tuple[float, float]:
        """A lag-0 step above its bound and a uniform step, in ms, as scaling.py measured them."""
        for row in json.loads(self._scaling.read_text())["rows"]:
            if (row["workers"], row["train_ms"], row["mode"]) == (workers, train_ms, "lag 0"):
                return row["step_ms"] - row["bound_ms"], row["uniform_ms"]
        raise SystemExit(f"{self._scaling}: no row of {workers} workers at {train_ms:g} ms")
