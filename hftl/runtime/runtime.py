"""Devices, precision and processes: the only importer of Accelerate."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, gather_object, reduce

from hftl.errors import HftlError
from hftl.model import dropout

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: one may decode a million images to check them while the rest wait."""
MOST_WORKERS = 8
"""Processes that read ahead of one GPU, where the recipe leaves it open and there are cores for more."""
GOODBYE = 0.2
"""Seconds that a process stays after its last collective, see ``_leave``."""


class Runtime:
    """Where and how a run computes.

    Raises:
        HftlError: a precision that this machine does not have, or a way of distribution that is not supported.
    """

    def __init__(self, precision: str = "auto", compiled: bool = False) -> None:
        self._compiled, self._prepared = compiled, False
        self.precision = precision if precision != "auto" else best_precision()
        if self.precision == "fp16" and not torch.cuda.is_available():
            raise HftlError("precision: fp16 needs a GPU; use bf16 or fp32")
        self._mixed = "no" if self.precision == "fp32" else self.precision
        AcceleratorState._reset_state()  # all of a process share it, and it refuses a second precision
        self._accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else a launcher's processes on a CPU do not find each other
            mixed_precision=self._mixed,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=PATIENCE),
                # Else running statistics would be those of the first process's rows, whatever is averaged afterwards.
                DistributedDataParallelKwargs(broadcast_buffers=False),
            ],
        )
        if self._accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise HftlError(
                f"{self._accelerator.distributed_type.value}: parameters in pieces are not supported yet; launch plain "
                "data parallel processes"
            )
        keep_freed_memory()
        before = torch.get_num_threads()
        self._threads = suitable_threads(before, usable_cores(), os.environ, _environment_of_launcher())
        if self._threads != before:
            torch.set_num_threads(self._threads)
        self._given_threads = before
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        if self.world_size > 1:
            atexit.unregister(_leave)  # once, however many runtimes a process makes
            atexit.register(_leave)
        self.first: bool = self.rank == 0
        """Whether this process is the one that writes and speaks."""

    def notes(self) -> list[str]:
        """What a person should know of how the run was started, a line each."""
        found, asked = [], _processes_asked()
        if asked is not None and asked > self.world_size:
            found.append(
                f"{asked} processes were asked for and {self.world_size} started; on CPUs start them with "
                f"torchrun --nproc_per_node {asked}"
            )
        if self._threads != self._given_threads:
            found.append(
                f"each process computes in {self._threads} threads, not {self._given_threads}, by the cores it may use "
                "(unless OMP_NUM_THREADS is set)"
            )
        return found

    def workers(self, asked: int | None) -> int:
        """Processes that read ahead: as many as asked for; left open, none where the CPU's cores compute the model."""
        if asked is not None or self.device.type == "cpu":
            return asked or 0
        share = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(0, min(MOST_WORKERS, share - 1))

    def prepare(self, model: Any, optimizer: torch.optim.Optimizer) -> Any:
        """Model and optimizer on the device, in the precision and over the processes of this run.

        What an earlier phase prepared is released: a phase is a fresh start.
        """
        self._fresh(model)
        if self._prepared:  # it collects garbage, for half a second
            self._accelerator.free_memory()
        self._prepared = True
        if self.device.type == "cpu" and not self._compiled:
            dropout.put_in(model)
        if self._compiled:
            torch._dynamo.reset()  # the next phase's graphs are others, and there is a limit to their number
            model.compile()
        model = self._accelerator.prepare_model(model)
        if self._accelerator.scaler is None:  # wrapped, it would look for a package (LOMO) on disk in every step
            return model, optimizer
        return model, self._accelerator.prepare_optimizer(optimizer)

    def prepare_evaluation(self, model: Any) -> Any:
        """The model on the device and in the precision of this run, each process's its own."""
        self._fresh(model)
        return self._accelerator.prepare_model(model, evaluation_mode=True)

    def _fresh(self, model: torch.nn.Module) -> None:
        if self.device.type in ("cpu", "cuda"):
            channels_last(model)
        self._accelerator.state._mixed_precision = self._mixed  # a Runtime made since may have another

    def unwrap(self, model: Any) -> Any:
        """The plain model again, without the wrapped ``forward`` of mixed precision."""
        plain = self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        vars(plain).pop("_is_accelerate_prepared", None)  # a marked model is not prepared again: no autocast, no DDP
        vars(plain).pop("forward", None)  # the class's own again, with all of its decorators
        plain._compiled_call_impl = None
        dropout.take_out(plain)
        return plain

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of this process's share of a step's loss, scaled where fp16 needs it."""
        self._accelerator.backward(loss * self.world_size)  # DDP averages over processes what is a sum of shares

    def no_sync(self, model: Any, when: bool) -> contextlib.AbstractContextManager[Any]:
        """Where ``when``, gradients stay on their process: all micro-batches of a step but the last."""
        return self._accelerator.no_sync(model) if when else contextlib.nullcontext()

    def clip(self, optimizer: torch.optim.Optimizer, norm: float | None) -> torch.Tensor:
        """Clip the gradient of what the optimizer trains to ``norm`` (None: not at all); its norm before."""
        if self._accelerator.scaler is not None:
            self._accelerator.unscale_gradients(optimizer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        before = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, norm, before)
        return before

    # -- between processes: each of these is called by all of them, or by none ----------------------------------------

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank: plain data or arrays."""
        gathered: list[T] = gather_object([value])
        return gathered

    def once(self, function: Callable[[], T], per_machine: bool = False) -> T:
        """What ``function`` gives on the first process (of each machine), on all of them.

        Raises:
            HftlError: whatever it raised there, on all of them.
        """
        if self.world_size == 1:
            return function()
        speaker = self.rank - self._accelerator.local_process_index if per_machine else 0
        result: tuple[T | None, HftlError | None] = None, None
        if self.rank == speaker:
            try:
                result = function(), None
            except HftlError as error:
                result = None, error
        value, problem = self.gather(result)[speaker]
        if problem is not None:
            raise problem
        return value  # type: ignore[return-value]  # T itself may be None

    def first_on_machine(self) -> contextlib.AbstractContextManager[Any]:
        """The first process of each machine goes first, and the others find what it has put on disk."""
        turn: contextlib.AbstractContextManager[Any] = self._accelerator.local_main_process_first()
        return turn

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, on all of them."""
        summed: torch.Tensor = reduce(value, "sum")
        return summed

    def equalise(self, model: torch.nn.Module) -> None:
        """Give every process the first one's parameters and buffers, bit for bit."""
        if self.world_size > 1:
            broadcast(model.state_dict())

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the mean over all processes into each tensor."""
        for tensor in tensors:
            tensor.copy_(self.total(tensor) / self.world_size)


def _leave() -> None:
    """Leave the process group, and let gloo's threads have the interpreter's lock once more before it ends.

    They hold the tensors of the last collective for a moment after it is done, and to let go of them they want the
    lock. Where the interpreter is ending by then, they abort the process: all is written, and the launcher says that
    the run has failed. Two processes that train a linear layer for five steps, torch 2.13, 2 CPU cores: 2 of 14 runs
    aborted without this, none of 40 with it.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    time.sleep(GOODBYE)


def _processes_asked() -> int | None:
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


def _environment_of_launcher() -> Mapping[str, str]:
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
