"""Losses and gradient norms of steps, as they are recorded."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from hftl.errors import HftlError


class Meter:
    """Means of loss and gradient norm over a few steps, summed on the device: no step waits for the host.

    They can be read after every ``every`` steps of an epoch of ``steps``, and after its last. ``total`` sums a loss
    over all processes: each has its share.
    """

    def __init__(self, every: int, steps: int, total: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.every, self.steps, self.total = every, steps, total
        self.loss: torch.Tensor | float = 0.0
        self.norm: torch.Tensor | float = 0.0
        self.count = 0

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add a micro-batch's share of the loss of its step."""
        self.loss = self.loss + loss.detach()

    def add_norm(self, norm: torch.Tensor) -> None:
        """Add a step's gradient norm; the step is complete."""
        self.norm = self.norm + norm.detach()
        self.count += 1

    def read(self, step: int) -> tuple[float | None, float | None]:
        """The means, where ``step`` (counted from 0 within the phase) is one after which they are due; else None.

        Raises:
            HftlError: the loss is no longer a number.
        """
        done = step % self.steps + 1
        if done % self.every and done != self.steps:
            return None, None
        loss = float(self.total(torch.as_tensor(self.loss))) / self.count
        norm = float(self.norm) / self.count
        self.loss, self.norm, self.count = 0.0, 0.0, 0
        if not math.isfinite(loss):
            raise HftlError(f"the loss is {loss} at step {step}; lower the learning rate, or use --precision fp32")
        return loss, norm if math.isfinite(norm) else None  # a step that fp16 has skipped has no norm
