"""One stage of a transfer: what is unfrozen, how fast it learns, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from hftl.errors import HftlError

NAMED_DEPTHS = ("auto", "head", "neck", "all")


class Strict:
    """Base of every options dataclass: a key that is not a field is an error, never ignored."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Phase(Strict):
    """What is unfrozen, learning rate, epochs. Everything not named by ``unfreeze`` is frozen.

    Raises:
        HftlError: a value out of its range, named with the values that are possible.
    """

    unfreeze: int | float | str = "all"
    """What trains: head, neck (the head with final norm and pooler), K (neck and the top K blocks), 0.25 (the top
    quarter of the blocks), all, or auto (head or neck, by the model family)."""
    epochs: int = 3
    """Passes over the training rows, at most."""
    lr: float | None = None
    """Peak learning rate; unset, the task's own for a head or for deeper layers."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each block further from the head (1 = the same everywhere)."""
    warmup: float = 0.1
    """Fraction of the phase's steps in which the learning rate rises from zero."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Curve of the learning rate after the warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW); norms and biases have none."""
    batch_norm: Literal["keep", "update"] = "keep"
    """Running statistics of unfrozen BatchNorm layers; frozen ones always keep theirs."""
    patience: int | None = None
    """End the phase after so many epochs without a better score; unset, never."""

    def __post_init__(self) -> None:
        depth = self.unfreeze
        if isinstance(depth, str):
            fits = depth in NAMED_DEPTHS
        elif isinstance(depth, float):
            fits = 0 < depth <= 1
        else:
            fits = not isinstance(depth, bool) and depth >= 1
        if not fits:
            raise HftlError(
                f"unfreeze: {depth!r} is not a depth; use head, neck, all, auto, a number of blocks such as 4, "
                "or a fraction of them such as 0.25"
            )
        for name, value, low, high in (
            ("epochs", self.epochs, 1, math.inf),
            ("lr", self.lr, 0, math.inf),
            ("layer_decay", self.layer_decay, 0, 1),
            ("warmup", self.warmup, 0, 1),
            ("weight_decay", self.weight_decay, 0, math.inf),
            ("patience", self.patience, 1, math.inf),
        ):
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                upper = "" if high == math.inf else f" and at most {high}"
                raise HftlError(f"{name}: {value!r} is out of range; it must be at least {low}{upper}")

    @property
    def head_only(self) -> bool:
        """Whether nothing inside the backbone's blocks trains."""
        return self.unfreeze in ("auto", "head", "neck")
