"""What the machine has and how it is used: cores, threads, precision, memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch


def processes_asked() -> int | None:
    """How many processes ``accelerate launch`` was told to start, where this one is its child.

    It starts a single one for ``--cpu --num_processes 2``, leaves no trace of the number, and says nothing.
    """
    try:
        parent = psutil.Process().parent()
        command = parent.cmdline() if parent else []
    except psutil.Error:  # gone, or another user's
        return None
    if not any("accelerate" in Path(word).name for word in command[:3]):
        return None
    told = re.search(r"--num[_-]processes[= ](\d+)", " ".join(command))
    return int(told[1]) if told else None


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Physical cores that this process may use: by its affinity, and by its container's quota (cgroup v2 or v1)."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(logical, psutil.cpu_count(logical=False) or logical)
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no quota
            quota, period = map(int, " ".join((cgroup / file).read_text() for file in files).split())
            if quota > 0:
                cores = min(cores, max(1, quota // period))
    return cores


def suitable_threads(given: int, cores: int, environment: Mapping[str, str], launcher: Mapping[str, str]) -> int:
    """Threads for this process to compute with: its share of the cores, unless the user has chosen.

    Args:
        given: What torch has chosen, which may count cores that a container does not let it use.
        cores: What all processes on this machine may use.
        environment: This process's variables.
        launcher: Those with which its parent was started. torchrun sets OMP_NUM_THREADS to 1 where they lack it.
    """
    share = max(1, cores // int(environment.get("LOCAL_WORLD_SIZE", "1")))
    if "OMP_NUM_THREADS" in environment:
        by_torchrun = "TORCHELASTIC_RUN_ID" in environment and "OMP_NUM_THREADS" not in launcher
        return share if by_torchrun else given
    return min(share, given)


def environment_of_launcher() -> Mapping[str, str]:
    """The variables with which the process's parent was started."""
    try:
        parent = psutil.Process().parent()
        return parent.environ() if parent else {}
    except psutil.Error:  # gone, or another user's
        return os.environ


def compiler_failed(error: RuntimeError) -> bool:
    """Whether it comes from torch.compile, and not from what was compiled."""
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def best_precision() -> str:
    """bf16 where the hardware computes it (on a CPU: AVX512-BF16 or AMX), fp16 on older GPUs, else fp32.

    A rule and not a trial, or two runs of one recipe might differ. Rows a second in fp32 and bf16 on one core of an AMD
    EPYC with AVX512-BF16, 8 rows at once (images of 224 px, 128 tokens): forward ViT-B/16 2.5 and 7.9, BERT-base 4.2
    and 13.5, ResNet-50 12.8 and 36.6; training BERT-base 1.3 and 3.7, ResNet-50 4.5 and 10.9.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if torch.backends.mps.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def channels_last(model: torch.nn.Module) -> None:
    """Lay out the weights of two-dimensional convolutions with their channels last; values and names stay the same.

    What they compute is laid out so too. Rows a second at 224 px on 2 cores of an AMD EPYC with AVX512-BF16, as loaded
    and so (medians, one process each): MobileNetV2 trains 24 and 48 in float32, 43 and 62 in bfloat16, and runs 110 and
    195, 147 and 304 without gradient. ResNet-50 trains 10 and 12 in float32. ViT stays as it was;
    ConvNeXt too, but for a tenth less without gradient in bfloat16.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks: on virtual machines, getting them again every step costs more than computing.

    A process then holds for good the most that it has needed. Training on 2 cores of an AMD EPYC in float32, medians of
    three (``python tests/benchmarks/allocator.py``): MobileNetV2, 32 images of 224 px: 1.29 s a step with 4.0 GB held,
    and 3.82 s with 3.3 GB without this; a BERT of 6 layers and width 384, 16 texts, each step of another length up to
    256 tokens: 1.30 s with 2.7 GB, and 1.53 s with 2.5 GB.
    Source: mallopt(3): M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD. Elsewhere than on Linux with glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 << 20)):
            libc.mallopt(option, value)
