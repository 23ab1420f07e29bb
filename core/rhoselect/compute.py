"""Threads, devices and random numbers of torch, set in one place."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch

from rhoselect.errors import ConfigError
from rhoselect.hashing import key64, mix64
from rhoselect.types import Indices

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str, key: str) -> torch.device:
    """The device of a config value, which this process must see. Raises ConfigError for ``key``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{key}: got {name!r}, allowed auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{key}: got {name!r}, allowed auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{key}: got {name!r}, but this process sees {torch.cuda.device_count()} CUDA devices;"
            " choose cpu or install a CUDA build of torch"
        )
    return device


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Run with kernels that repeat bit for bit. CPU kernels always do; for CUDA this switches
    torch to deterministic algorithms and switches it back at the end of the block."""
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    # cuBLAS reads this when it makes a handle, so it stays set.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 matmuls have hardware: elsewhere they are many times slower than fp32."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_memory() -> None:
    """Have the C library keep the memory that tensors leave, for the next ones.

    glibc gives large blocks back to the kernel at once, which then zeroes the pages of the next
    tensor anew: a good part of a convolutional forward on a CPU.
    """
    with suppress(OSError, AttributeError):  # another C library: nothing to tune
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its greatest
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with ``count`` CPU threads: results differ bit for bit between thread counts."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def seed_step(seed: int, step: int, device: torch.device) -> None:
    """Reseed ``device`` from (seed, step), so that a step's dropout never depends on the past.

    Not torch.manual_seed: without a GPU in use it files a stack trace for each device type to seed
    later, at every call, for good.
    """
    _seed(int(key64(seed, 0x73746570, step)) >> 1, device)


def seed_points(seed: int, indices: Indices, number: int, device: torch.device) -> None:
    """Reseed ``device`` for stochastic pass ``number`` over the points ``indices`` [C], in order.

    The points tell the chunk and its window, whose replica or second stage this may be.
    """
    places = mix64(np.arange(len(indices), dtype=np.uint64))
    points = np.bitwise_xor.reduce(mix64(indices.astype(np.uint64) ^ places))
    _seed(int(key64(seed, 0x70617373, int(points), number)) >> 1, device)


def _seed(key: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)
