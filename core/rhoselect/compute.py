"""Threads, devices and random numbers of torch, set in one place."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from rhoselect.config.scoring import Tf32
from rhoselect.errors import ConfigError, ModelError, RunError, shortened
from rhoselect.hashing import key64, mix64
from rhoselect.types import Indices

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_P = ParamSpec("_P")
_T = TypeVar("_T")
NO_KERNEL = " does not have a deterministic implementation"  # torch's words, after the operator


def parse_device(name: str, key: str) -> torch.device:
    """The device that a configuration value names, whether or not it is here. Raises ConfigError,
    naming ``key``, if the value is malformed."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{key}: got {name!r}, allowed auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{key}: got {name!r}, allowed auto, cpu, cuda or cuda:N")
    return device


def resolve_device(name: str, key: str) -> torch.device:
    """The device that a configuration value names: "cuda" is the first GPU that this process sees.
    Raises ConfigError, naming ``key``, if the value is malformed or the device is not here. Call
    this in the process that computes on the device."""
    device = parse_device(name, key)
    if device.type == "cpu":
        return device
    index, count = device.index or 0, torch.cuda.device_count()
    if index >= count:
        advice = "choose one of those" if count else "choose cpu or install a CUDA build of torch"
        raise ConfigError(
            f"{key}: got {name!r}, but this process sees {count} CUDA devices; {advice}"
        )
    return torch.device("cuda", index)


def make_current(device: torch.device) -> None:
    """Make ``device``, if it is a GPU, the current one of this thread and of the pools that it
    makes. torch's own kernels run where their tensors are; those of Triton and of extensions, and
    pinned memory, use the current GPU, which is GPU 0 by default."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


@contextmanager
def repeatable(device: torch.device, tf32: Tf32 = "convolutions") -> Iterator[None]:
    """Run the block with kernels whose results repeat bit for bit. CPU kernels always do. For CUDA
    this sets torch to deterministic algorithms, and the use of TF32 to `tf32_switches`. It restores
    torch's settings at the end. Raises ModelError if the block needs an operator that has no such
    kernel, and ConfigError for "all" on a GPU without TF32."""
    with _deterministic(device, tf32) if device.type == "cuda" else nullcontext():
        try:
            yield
        except RuntimeError as error:
            operator, found, _ = str(error).partition(NO_KERNEL)
            if not found:
                raise
            raise ModelError(
                f"model.factory: its model uses {operator}, which has no kernel on"
                f" {device.type} whose results repeat bit for bit, allowed operators that have"
                " one; use another layer there, or set trainer.device and scorer.device to cpu"
            ) from error


@contextmanager
def _deterministic(device: torch.device, tf32: Tf32) -> Iterator[None]:
    _check_tf32(device, tf32)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    # Deterministic mode would also fill all new memory, with a kernel each; we read none of it.
    fill = (torch.utils.deterministic, "fill_uninitialized_memory", False)
    switches = [(torch.backends.cudnn, "benchmark", False), fill, *tf32_switches(tf32)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in switches]
    # cuBLAS reads this when it creates a handle, so it stays set.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for owner, name, value in before:
            setattr(owner, name, value)


def tf32_switches(use: Tf32 = "convolutions") -> list[tuple[Any, str, Any]]:
    """Where torch keeps the use of TF32 in float32 operations, as (object, attribute, value): in
    cuDNN's convolutions and recurrent layers unless ``use`` is "none", in matrix products if it is
    "all". The default is torch's."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    products, convolutions = use == "all", use != "none"
    if not hasattr(cudnn, "conv"):  # before torch 2.9; since then these names may warn or raise
        return [(matmul, "allow_tf32", products), (cudnn, "allow_tf32", convolutions)]
    values = ((matmul, products), (cudnn.conv, convolutions), (cudnn.rnn, convolutions))
    return [(owner, "fp32_precision", "tf32" if on else "ieee") for owner, on in values]


def _check_tf32(device: torch.device, use: Tf32) -> None:
    if use == "all" and torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(
            f"compute.tf32: got 'all' on {name}, allowed on GPUs that have TF32; leave it out"
        )


@contextmanager
def enough_memory(who: str) -> Iterator[None]:
    """Run a forward of a chunk. Raises RunError, naming ``who``, if the GPU has no room for it.
    Nothing is tried in another way, as that could give other bits."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"{who}: the GPU has no room for the forward of a chunk ({shortened(str(error), 200)});"
            " give that process more of its memory: fewer processes on the GPU, a lower"
            " scorer.prefetch or, in a new run, a smaller selection.chunk"
        ) from None


@contextmanager
def as_guest(device: torch.device, tf32: Tf32 = "convolutions") -> Iterator[None]:
    """Run the block, which computes on ``device``, in a process that is not ours: with repeatable
    kernels, and afterwards torch's settings, random state and current device are as before."""
    cuda = device.type == "cuda"
    current = torch.cuda.device(device) if cuda else nullcontext()
    with repeatable(device, tf32), current, torch.random.fork_rng(devices=[device] if cuda else []):
        yield


def has_fast_bf16(device: str) -> bool:
    """Whether the hardware computes bf16 matmuls; without, they are many times slower than fp32.
    Of GPUs on other machines this is assumed: all since 2020 do."""
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            return True
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_memory() -> None:
    """Make the C library reuse the memory of freed tensors for new ones.

    By default glibc returns large blocks to the kernel at once, and the kernel zeroes the pages of
    the next tensor again. That takes much of the time of a convolutional forward on a CPU.
    """
    with suppress(OSError, AttributeError):  # another C library, which has no such setting
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its greatest
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` CPU threads, because results depend on their number.

    torch keeps the number for each thread: only the calling one computes with it.
    """
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


class AtOnce(Executor):
    """Runs what is submitted in the calling thread, before ``submit`` returns: for work so short
    that to hand it to a thread takes longer."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See `Executor.submit`."""
        done = Future[_T]()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def single_threaded_pool(name: str) -> ThreadPoolExecutor:
    """One thread that computes with one CPU thread: itself.

    torch gives a thread, when it first computes, the number that any thread set last. So this one
    has its own number before it sets it, and a helper thread sets the caller's number once more,
    for the later threads of the user's process. Its current GPU is that of the calling thread.
    """
    others = torch.get_num_threads()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpu = torch.cuda.current_device() if in_use else None

    def begin() -> None:
        if gpu is not None:
            torch.cuda.set_device(gpu)
        torch.get_num_threads()
        torch.set_num_threads(1)
        again = threading.Thread(target=torch.set_num_threads, args=(others,))
        again.start()
        again.join()

    return ThreadPoolExecutor(1, name, begin)


def seed_step(seed: int, step: int, device: torch.device, micro: int = 0) -> None:
    """Reseed ``device`` from (seed, step, micro-batch): dropout does not depend on earlier ones.

    torch.manual_seed is not used: if CUDA is not initialised, each call stores a stack trace that
    is never freed.
    """
    part = (micro,) if micro else ()  # the first one has the seed of a batch that is not split
    _seed(int(key64(seed, 0x73746570, step, *part)) >> 1, device)


def seed_points(seed: int, indices: Indices, number: int, device: torch.device) -> None:
    """Reseed ``device`` for stochastic pass ``number`` over the points ``indices`` [C], in order.

    The seed depends on the points alone, so every process gets the same numbers for a chunk.
    """
    places = mix64(np.arange(len(indices), dtype=np.uint64))
    points = np.bitwise_xor.reduce(mix64(indices.astype(np.uint64) ^ places))
    _seed(int(key64(seed, 0x70617373, int(points), number)) >> 1, device)


def _seed(key: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)
