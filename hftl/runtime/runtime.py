"""Devices, precision and processes: the only importer of Accelerate."""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, gather_object, reduce

from hftl.errors import HftlError
from hftl.model import dropout
from hftl.runtime.machine import (
    best_precision,
    channels_last,
    environment_of_launcher,
    keep_freed_memory,
    processes_asked,
    suitable_threads,
    usable_cores,
)

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
        self._threads = suitable_threads(before, usable_cores(), os.environ, environment_of_launcher())
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
        found, asked = [], processes_asked()
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
