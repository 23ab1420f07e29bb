"""Check that this tree selects the same points and learns the same weights as another commit.

    python scripts/same_results.py COMMIT [PART]

The script does small runs in a worktree of COMMIT and in this tree as it is: a fixed list, or those
with PART in their names. It compares the selected indices of all steps and the final tensors bit by
bit. Both trees run on this machine, as bits differ between kinds of CPU. The last column compares
the runs of one setting with each other, within this tree: workers, a resume and a client must not
change a result. The exit code is 1 if a run differs or fails. The two trees may have other modules,
so the runs use only the command line, configuration keys, run folders and SelectionClient.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save, save_file

Result = dict[str, torch.Tensor]  # the indices [n_b] of a step as "step 00", …; the final tensors
Packed = dict[str, dict[str, bytes]]  # results by run, each tensor as its type, shape and bytes
CONFIG = """
data.path = "data"
model = { factory = "rhoselect.models:mlp", args = { width = 32 } }
il.table = "il.parquet"
selection = { n_b = 8, n_B = 64, chunk = 16 }
scorer = { precision = "fp32", threads = 1, device = "cpu" }
trainer = { steps = 20, checkpoint_every = 10, lr = 3e-3, threads = 1, device = "cpu" }
metrics.port = -1
"""
LAG_1 = ["selection.lag=1", "selection.rescore=trainer"]
IL = ["selection.function=updated_reducible_loss", "il.weights=il.safetensors"]
RESNET = ["model.factory=rhoselect.models:resnet18_small", "model.args={width = 4}"]
RESNET += ["trainer.steps=8", "trainer.checkpoint_every=4"]
FOLDED = [*RESNET, "selection.bn=running", "scorer.fold_batchnorm=true", "scorer.precision=bf16"]
FOLDED += ["augment.flip=true"]
SETTINGS = {  # by name, the keys that differ from CONFIG
    "lag 0": [],
    "lag 1": LAG_1,
    "lag 1, scorers re-score": ["selection.lag=1", "selection.rescore=scorers"],
    "lag 2, audited": ["selection.lag=2", "selection.audit_every=4", "trainer.publish_every=2"],
    "streamed order": ["data.order=streamed"],
    "uniform": ["selection.function=uniform"],
    "irreducible losses alone, lag 1": ["selection.function=irreducible_loss", *LAG_1],
    "REDUCR": ["selection.function=reducr"],
    "updated IL model": [*IL, "il.update_lr_factor=0.3", *LAG_1],
    "ResNet, bn running": [*RESNET, "selection.bn=running"],
    "ResNet, bn batch": [*RESNET, "selection.bn=batch", *LAG_1],
    "ResNet, two threads": [*RESNET, "scorer.threads=2", "trainer.threads=2"],
    "ResNet, folded, bf16, augmented": FOLDED,
}
# Those that also run with two workers. Actors that start take most of the time.
PARALLEL = ("lag 0", "lag 1, scorers re-score", "REDUCR", "updated IL model", "ResNet, bn batch")


def runs(part: str) -> dict[str, tuple[Any, ...]]:
    """The function that makes a result, and its arguments, by "SETTING: HOW"."""
    found = {
        **{f"{name}: 0 workers": (train, name, 0) for name in SETTINGS},
        **{f"{name}: 2 workers": (train, name, 2) for name in PARALLEL},
        "REDUCR: resumed, 0 workers": (resume, "REDUCR", 0),
        "lag 1: resumed, 2 workers": (resume, "lag 1", 2),
        "own loop: local": (loop, {"config": "config.toml", "local": True}),
        "own loop: served, 2 workers": (served_loop, 2),
    }
    inputs = {"irreducible losses": (make_inputs,)}
    return inputs | {run: found[run] for run in sorted(found) if part in run}


def run_all(tree: str, part: str) -> None:
    """Do the runs with the rhoselect of ``tree``. Those that fail leave no file in ``results``."""
    import rhoselect

    assert all(Path(root).is_relative_to(tree) for root in rhoselect.__path__), rhoselect.__path__
    Path("results").mkdir()
    Path("config.toml").write_text(CONFIG)
    if any("2 workers" in run for run in runs(part)):
        import ray

        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)  # all runs join it
    for run, (make, *arguments) in runs(part).items():
        try:
            save_file(make(*arguments), f"results/{run}.safetensors")
        except Exception as error:
            print(f"{tree}: {run}: {type(error).__name__}: {error}", file=sys.stderr)


def rhoctl(*words: object) -> None:
    """Run the command in this process. Raises RuntimeError if it fails."""
    sys.argv = ["rhoctl", *map(str, words)]
    try:
        exec(os.environ["RHOCTL"], {})  # the code that calls the command of this tree
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{' '.join(sys.argv)}: exit code {end.code}") from None


def make_inputs() -> Result:
    """400 points to select from, and their irreducible losses with the model that gave them."""
    random, arrays = np.random.default_rng(0), {}
    for split, size in {"train": 200, "holdout": 400, "test": 100}.items():
        labels = random.integers(0, 4, size)  # the class is how bright an image is
        images = random.integers(0, 160 + 30 * labels[:, None, None, None], (size, 1, 16, 16))
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez("points.npz", **arrays)
    rhoctl("data", "import", "numpy", "points.npz", "data", "--label-noise", "0.1")
    # Indices of the train split then begin at 200: a forgotten offset changes the result.
    manifest = json.loads(Path("data/manifest.json").read_text())
    manifest["splits"] |= {"holdout": [0, 200], "train": [200, 600]}
    Path("data/manifest.json").write_text(json.dumps(manifest))
    fit = "il fit --data data --model rhoselect.models:mlp --set model.args.width=16 --batch 64"
    rhoctl(*fit.split(), "--out", "il.parquet", "--weights-out", "il.safetensors")
    losses = pq.read_table("il.parquet")["irreducible_loss"].to_numpy()
    return {"losses": torch.tensor(losses), **load_file("il.safetensors")}


def train(setting: str, workers: int, folder: str = "") -> Result:
    folder = folder or f"{setting}, {workers} workers"
    flags = [word for key in SETTINGS[setting] for word in ("--set", key)]
    rhoctl("train", "config.toml", *flags, "--workers", workers, "--run-dir", folder)
    return result_of(Path(folder))


def resume(setting: str, workers: int) -> Result:
    """Cut a finished run back to what a kill before its last checkpoint leaves, and go on."""
    folder = Path(f"{setting}, resumed")
    train(setting, 0, str(folder))
    *_, newest = sorted(folder.glob("checkpoints/step-*"))
    for path in (newest, folder / "steps.parquet", folder / "summary.json"):
        path.unlink()
    rhoctl("train", "--resume", "--run-dir", folder, "--workers", workers)
    return result_of(folder)


def result_of(folder: Path) -> Result:
    selected = pq.read_table(folder / "steps.parquet")["indices"].to_pylist()
    *_, newest = sorted(folder.glob("checkpoints/step-*"))
    model = {n: t for n, t in load_file(newest).items() if n.startswith("learner.model.")}
    return {f"step {t:02}": torch.tensor(row) for t, row in enumerate(selected)} | model


def loop(where: dict[str, Any]) -> Result:
    """A user's own loop in plain torch."""
    from rhoselect.client import SelectionClient
    from rhoselect.models import mlp

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, selected = mlp(input_shape=(1, 16, 16), classes=4, width=32), {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    selection = SelectionClient(model, **where)
    for batch in selection:
        losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
        optimizer.zero_grad()
        (losses * batch.weights).mean().backward()
        optimizer.step()
        selection.step(model, losses)
        selected[f"step {batch.step:02}"] = batch.indices
    return selected | model.state_dict()


def served_loop(workers: int) -> Result:
    command = [sys.executable, "-u", "-c", os.environ["RHOCTL"], "serve", "config.toml"]
    command += ["--workers", str(workers), "--run-dir", "served"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            for line in service.stdout or ():
                if found := re.match(r"serving at ([^\s,]+)", line):
                    return loop({"address": found[1]})
            raise RuntimeError(f"rhoctl serve: ended without an address: {service.wait()}")
        finally:
            service.send_signal(signal.SIGINT)


def results_of(tree: Path, part: str, work: Path) -> Packed:
    """Do the runs with ``tree`` in the new folder ``work``. Those that fail are missing."""
    venv.create(work / "environment")
    (site,) = work.glob("environment/lib/python*/site-packages")
    # The packages of this environment, but not its .pth files, which may name another tree.
    packages = [path for path in sys.path if path.endswith("site-packages")]
    roots = [str(path.parent) for path in tree.glob("*/rhoselect")]
    (site / "tree.pth").write_text("\n".join([*roots, *packages]))
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["rhoctl"].partition(":")
    variables = {
        "PYTHONPATH": str(Path(__file__).parent),
        "XDG_CACHE_HOME": str(work / "cache"),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "OMP_WAIT_POLICY": "passive",  # two threads on busy cores would spin for minutes
        "RHOCTL": f"from {module} import {function}; {function}()",
    }
    program = "import sys, same_results; same_results.run_all(*sys.argv[1:])"
    command = [work / "environment/bin/python", "-c", program, tree, part]
    subprocess.run(command, cwd=work, env=os.environ | variables, stdout=subprocess.DEVNULL)
    results = {path.stem: load_file(path) for path in work.glob("results/*")}
    return {run: {n: save({n: t}) for n, t in tensors.items()} for run, tensors in results.items()}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """What differs in the selected indices and in the tensors; empty if nothing does."""
    wrong = {name for name, _ in one.items() ^ other.items()}
    steps = sorted(name for name in wrong if name.startswith("step "))
    tensors = len(wrong) - len(steps)
    return [f"differ from {steps[0]}" if steps else "", f"{tensors} differ" if tensors else ""]


def report(part: str, before: Packed, after: Packed) -> int:
    """Print a line for each run. Returns the exit code."""
    wrong, first = 0, {}
    print(f"{'run':44}steps  {'selected':24}{'tensors':16}within the setting")
    for run in runs(part):
        cells = ["failed"] * 3
        if run in before and run in after:
            like = first.setdefault(run.partition(":")[0], after[run])
            cells = [*differing(before[run], after[run]), " ".join(differing(like, after[run]))]
        cells = [cell.strip() or "equal" for cell in cells]
        wrong += cells != ["equal"] * 3
        steps = sum(name.startswith("step ") for name in after.get(run, ()))
        print(f"{run:44}{steps:5}  {cells[0]:24}{cells[1]:16}{cells[2]}")
    print(f"{wrong} of {len(runs(part))} runs differ or failed")
    return min(wrong, 1)


def main(commit: str, part: str = "") -> int:
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", root, "worktree"]
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work, "tree")
        subprocess.run([*git, "add", "-q", "--detach", tree, commit], check=True)
        try:
            before = results_of(tree, part, Path(work, "before"))
            after = results_of(root, part, Path(work, "after"))
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)
    return report(part, before, after)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 1 else __doc__)
