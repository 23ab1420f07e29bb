"""Stage 1: what copies and matrix products reach here, and whether memory can be registered.

A copy between host and device counts its bytes once, a copy within the device twice (read and
written). The last part registers a file outside shared memory, which may fail, and then runs a
kernel: a failed call must not break the next one (row 2 of the list of CUDA's traps).
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
from pathlib import Path

import torch
from stage import Stage, run, seconds, wait
from torch import Tensor

SIZES = {"51 MB": 51_000_000, "350 MB": 350_000_000, "2.6 GB": 2_600_000_000}
QUICK = {"1 MB": 1_000_000}
GEMM, QUICK_GEMM = 8192, 256


def main(stage: Stage) -> None:
    for name, size in (QUICK if stage.quick else SIZES).items():
        stage.part(f"copies, {name}", copies, name, size, needs_s=4)
    for kind in ("bf16", "fp8", "int8"):
        stage.part(f"GEMM, {kind}", product, kind, needs_s=1)
    if stage.cuda:
        stage.part("kernel after a /tmp file was registered", registered_file)


def copies(stage: Stage, name: str, size: int) -> None:
    device, repeats = stage.device, 5
    one, two = (torch.randint(256, (size,), dtype=torch.uint8, device=device) for _ in range(2))

    def rate(what: str, target: Tensor, source: Tensor, times: int, predicted: str) -> None:
        taken = seconds(device, lambda: target.copy_(source, non_blocking=True), repeats)
        stage.figure(f"{what}, {name}", times * size / taken / 1e9, "GB/s", predicted)

    rate("device to device", one, two, 2, "3000")
    host = torch.empty(size, dtype=torch.uint8, pin_memory=stage.cuda)
    host.fill_(1)
    rate("pinned D2H", host, one, 1, "52")
    rate("pinned H2D", one, host, 1, "52")
    del host
    plain = torch.ones(size, dtype=torch.uint8)
    rate("pageable H2D", one, plain, 1, "8")
    del plain
    if not stage.cuda:
        return
    if shutil.disk_usage("/dev/shm").free < 1.1 * size:
        stage.figure(f"registered /dev/shm H2D, {name}", "no room")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        memory = mapped(Path(folder) / "file", size)
        code = register(memory)
        stage.figure(f"register /dev/shm, {name}", code, "", "0")
        if code == 0:
            rate("registered /dev/shm H2D", one, memory, 1, "50")
            wait(device)
            torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


def mapped(path: Path, size: int) -> Tensor:
    """A new file of ones [size] uint8, shared and writable."""
    with path.open("w+b") as file:
        file.truncate(size)
        memory = torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)
    return memory.fill_(1)


def register(memory: Tensor) -> int:
    """CUDA's answer, 0 if the copy engine may use the memory from now on."""
    return int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0))


def product(stage: Stage, kind: str) -> None:
    n = QUICK_GEMM if stage.quick else GEMM
    a, b = (torch.randn(n, n, device=stage.device, dtype=torch.bfloat16) for _ in range(2))
    if kind == "bf16":
        taken, predicted = seconds(stage.device, lambda: a @ b, 10), "800"
    elif kind == "fp8":
        one = torch.ones((), device=stage.device)
        p, q = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()

        def fp8() -> Tensor:
            return torch._scaled_mm(p, q, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

        taken, predicted = seconds(stage.device, fp8, 10), "1250"
    else:
        p, q = (each.mul(20).to(torch.int8) for each in (a, b))
        taken, predicted = seconds(stage.device, lambda: torch._int_mm(p, q.t()), 10), ""
    unit = "TOP/s" if kind == "int8" else "TFLOP/s"
    stage.figure(f"GEMM {n}, {kind}", 2 * n**3 / taken / 1e12, unit, predicted)


def registered_file(stage: Stage) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        memory = mapped(Path(folder) / "file", 1 << 22)
        stage.figure("register a /tmp file", register(memory), "", "an error, kernel >= 6.5")
        try:
            torch.ones(8, device=stage.device).add_(1)
            wait(stage.device)
            stage.figure("kernel after that", "works", "", "fails once")
        except RuntimeError as error:
            stage.figure("kernel after that", str(error).splitlines()[0][:80], "", "fails once")
        torch.ones(8, device=stage.device).add_(1)
        wait(stage.device)
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


if __name__ == "__main__":
    run(main)
