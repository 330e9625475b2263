"""Devices, precision and processes: the only importer of Accelerate."""

from __future__ import annotations

import contextlib
import ctypes
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hftl.errors import HftlError


class Runtime:
    """Where and how a run computes.

    Raises:
        HftlError: a precision that this machine does not have.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision if precision != "auto" else best_precision()
        if self.precision == "fp16" and not torch.cuda.is_available():
            raise HftlError("precision: fp16 needs a GPU; use bf16 or fp32")
        self._mixed = "no" if self.precision == "fp32" else self.precision
        AcceleratorState._reset_state()  # all of a process share it, and it refuses a second precision
        self._accelerator = Accelerator(mixed_precision=self._mixed)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        if self.world_size > 1:
            raise HftlError(
                f"{self.world_size} processes: more than one is not supported yet; start the run without a launcher"
            )

    def prepare(self, model: Any, *optimizers: torch.optim.Optimizer) -> Any:
        """Model (and optimizer) on the device, in the precision and over the processes of this run.

        What an earlier phase prepared is released: a phase is a fresh start.
        """
        self._accelerator.state._mixed_precision = self._mixed  # a Runtime made since may have another
        self._accelerator.free_memory()
        return self._accelerator.prepare(model, *optimizers)

    def unwrap(self, model: Any) -> Any:
        """The plain model again, without the wrapped ``forward`` of mixed precision."""
        plain = self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        vars(plain).pop("_is_accelerate_prepared", None)  # a marked model is not prepared again: no autocast, no DDP
        vars(plain).pop("forward", None)  # the class's own again, with all of its decorators
        return plain

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of this process's share of a step's loss, scaled where fp16 needs it."""
        self._accelerator.backward(loss * self.world_size)  # DDP averages over processes what is a sum of shares

    def no_sync(self, model: Any, when: bool) -> contextlib.AbstractContextManager[Any]:
        """Where ``when``, gradients stay on their process: all micro-batches of a step but the last."""
        return self._accelerator.no_sync(model) if when else contextlib.nullcontext()

    def clip(self, optimizer: torch.optim.Optimizer, norm: float | None) -> torch.Tensor:
        """Clip the gradient of what the optimizer trains to ``norm`` (None: not at all); its norm before."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        clipped = self._accelerator.clip_grad_norm_(parameters, float("inf") if norm is None else norm)
        return torch.as_tensor(clipped)


def best_precision() -> str:
    """bf16 where the hardware computes it (on a CPU: AVX512-BF16 or AMX), fp16 on older GPUs, else fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if torch.backends.mps.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def seed_everything(seed: Sequence[int]) -> None:
    """Seed every global generator (Python, NumPy, torch and its devices) from one sequence of integers."""
    words = np.random.SeedSequence(list(seed)).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]))
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


def random_states() -> dict[str, Any]:
    """The states of all global generators, as tensors and plain data."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [str(name), np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks: on virtual machines, getting them again every step costs more than computing.

    For batches that all have one shape: MobileNetV2 in float32, batches of 32 images of 224 px, 2 CPU cores: 22.9
    training rows a second with it, 9.0 without (medians of three; ``python tests/benchmarks/allocator.py``). Where
    shapes vary, the heap falls to pieces and nothing is gained. MiniLM on IMDb at 256 tokens, ten steps: 6.6 GB held
    in 59 s with it, 4.7 GB in 55 s without (one run each; glibc's MALLOC_* variables set the same).
    Source: mallopt(3): M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD. Elsewhere than on Linux with glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 << 20)):
            libc.mallopt(option, value)
