"""What the bits of scores depend on beside inputs and configuration: releases, hardware and how
torch uses it. All processes of a run that score must be alike in these facts."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from rhoselect.compute import tf32_switches
from rhoselect.errors import HardwareError, listed

Facts = dict[str, str]
"""Facts by name, such as "torch": "2.13.0"."""

PROBE = "probe"
"""Name of the fact that no list of versions replaces: SHA-256 of the losses of one chunk."""
PARTS, SUMS = "devices (fsdp)", "devices (fast sums)"
"""Among how many devices a model is divided, and how many sum gradients in the order of a library:
sums depend on it."""
CPU_NAMES = ("model name", "CPU implementer", "CPU part")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "sve", "bf16")
CPU_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)
CUDA_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables of the environment that make libraries choose other kernels."""


def releases() -> Facts:
    """The releases that must be equal in all processes of a run, those that do not score too."""
    return {"rhoselect": version("rhoselect"), "torch": torch.__version__}


def facts_of(device: torch.device) -> Facts:
    """Releases and hardware of this process. Call it with the settings and the number of threads
    with which it computes on ``device``."""
    return releases() | (_cuda(device) if device.type == "cuda" else _cpu())


def check_alike(who: str, got: Mapping[str, str], other: str, allowed: Mapping[str, str]) -> None:
    """Raise HardwareError, naming this process as ``who``, unless it has the facts of ``other``."""
    names = differing(got, allowed)
    if not names:
        return
    advice = "let machines of one kind, with the same releases, do all that scores"
    if names == [PROBE]:
        advice += (
            "; or see that model.factory and data.dataset give the same numbers in every process"
        )
    raise HardwareError(
        f"{who}: got {_listed(got, names)}, allowed that of {other}: {_listed(allowed, names)}, as"
        f" bits of scores depend on it; {advice}"
    )


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of the facts in which two processes differ."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def difference(now: Mapping[str, str], before: Mapping[str, str]) -> str:
    """What differs, for people; empty if nothing does."""
    names = differing(now, before)
    return f"{_listed(now, names)} instead of {_listed(before, names)}" if names else ""


def _listed(facts: Mapping[str, str], names: list[str]) -> str:
    return listed((f"{name} {facts.get(name, 'unknown')!r}" for name in names), 4)


def _cpu() -> Facts:
    fields = _cpu_info()
    model = " ".join(fields[name] for name in CPU_NAMES if name in fields)
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "device": model or platform.machine(),
        "instructions": " ".join(flag for flag in CPU_FLAGS if flag in flags),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "float32 products": torch.get_float32_matmul_precision(),
        "threads": str(torch.get_num_threads()),
        "environment": _variables(CPU_VARIABLES),
    }


def _cpu_info() -> Facts:
    """The fields of the first core in /proc/cpuinfo; none on another system."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
        fields = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in fields}
    return {}


def _cuda(device: torch.device) -> Facts:
    found = torch.cuda.get_device_properties(device)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {
        "device": found.name,
        "multiprocessors": str(found.multi_processor_count),
        "capability": f"{found.major}.{found.minor}",
        "slice (MIG)": "yes" if "MIG" in f"{found.name} {visible}" else "no",
        "driver": _driver(),
        "CUDA": str(torch.version.cuda),
        "cuBLAS": _cublas(),
        "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "TF32": ", ".join(str(getattr(owner, name)) for owner, name, _ in tf32_switches()),
        "environment": _variables(CUDA_VARIABLES),
    }


def _driver() -> str:
    """The release of NVIDIA's kernel driver."""
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text("utf-8")
        if found := re.search(r"\b\d+\.\d+(\.\d+)?\b", text):
            return found[0]
    return "unknown"


def _cublas() -> str:
    """The release of the cuBLAS that this process has loaded."""
    loaded = re.search(r"\S*/libcublasLt\.so\S*", Path("/proc/self/maps").read_text("utf-8"))
    return "unknown" if loaded is None else str(ctypes.CDLL(loaded[0]).cublasLtGetVersion())


def _variables(names: tuple[str, ...]) -> str:
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
