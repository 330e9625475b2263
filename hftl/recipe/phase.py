"""One stage of a transfer: what is unfrozen, how fast it learns, and for how long."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict

from hftl.errors import HftlError

NAMED_DEPTHS = ("auto", "head", "neck", "all")


class Strict:
    """Base of every options dataclass: a key that is not a field is an error, never ignored."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class LoRA(Strict):
    """Low-rank adapters: what a phase with ``train: lora`` trains beside the frozen weights of its blocks.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".

    Raises:
        HftlError: a value out of its range.
    """

    rank: int = 8
    """Rank of the update of each weight."""
    alpha: float = 16.0
    """The update counts alpha / rank times."""
    dropout: float = 0.0
    """Dropout of what goes into the adapters."""
    targets: str | None = None
    """Regular expression on module names: which linear layers and convolutions of the unfrozen blocks get an adapter;
    unset, all of them."""
    dora: bool = False
    """Train the magnitude of each weight apart from its direction (Liu et al. 2024, "DoRA")."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise HftlError(f"lora.rank: {self.rank} is out of range; it must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise HftlError(f"lora.alpha: {self.alpha} is out of range; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise HftlError(f"lora.dropout: {self.dropout} is out of range; it must be at least 0 and below 1")
        try:
            re.compile(self.targets or "")
        except re.error as error:
            raise HftlError(f"lora.targets: {self.targets!r} is no regular expression: {error}") from None


@dataclass(frozen=True)
class Phase(Strict):
    """What is unfrozen, learning rate, epochs. Everything not named by ``unfreeze`` is frozen.

    Raises:
        HftlError: a value out of its range, named with the values that are possible.
    """

    unfreeze: int | float | str = "all"
    """What trains: head, neck (the head with final norm and pooler), K (neck and the top K blocks), 0.25 (the top
    quarter of the blocks), all, or auto (head or neck, by the model family)."""
    epochs: int | None = None
    """Passes over the training rows, at most; unset, as many as the number of rows asks for
    (hftl/recipe/defaults.py)."""
    lr: float | None = None
    """Peak learning rate; unset, that of the model's kind (hftl/recipe/defaults.py)."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each block further from the head (1 = the same everywhere)."""
    warmup: float = 0.1
    """Fraction of the phase's steps in which the learning rate rises from zero."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Curve of the learning rate after the warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW); norms and biases have none."""
    batch_norm: Literal["keep", "update"] | None = None
    """Running statistics of unfrozen BatchNorm layers; frozen ones always keep theirs. Unset, keep; update where a
    model of images hears sounds."""
    solver: Literal["lbfgs", "steps"] | None = None
    """How a head on frozen layers is trained. lbfgs: its last layer, where that is linear, is solved to its optimum on
    stored features, and further layers of a head then go on in steps. steps: all of it in steps. Unset, lbfgs, but
    steps where epochs or lr are set."""
    penalty: float | None = None
    """L2 penalty of a head that is solved; unset, chosen by cross-validation."""
    temperature: float | None = None
    """What the logits of a head that is solved are divided by; unset, chosen with the penalty."""
    head_scale: float | None = None
    """What the last layer of the head is multiplied by as the phase begins. Below 1 it keeps what it tells apart, and
    leaves the layers below something to learn. Unset, chosen where blocks train above a head that has been trained."""
    patience: int | None = None
    """End the phase after so many epochs without a better score; unset, never."""
    train: Literal["weights", "lora", "bias", "norm"] = "weights"
    """What trains of the unfrozen blocks: all weights; low-rank adapters beside them; biases alone (BitFit, Ben Zaken
    et al. 2021); norm layers alone. Head and neck train whole in any case."""
    lora: LoRA = field(default_factory=LoRA)
    """The adapters, where train is lora."""

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
        if self.train != "weights" and self.head_only:
            raise HftlError(
                f"train: {self.train} is about unfrozen blocks, and unfreeze: {depth} has none; unfreeze all, a number "
                "of blocks such as 4, or a fraction of them such as 0.25"
            )
        for option in ("solver", "penalty", "temperature"):
            if getattr(self, option) is not None and not self.head_only:
                raise HftlError(
                    f"{option}: it is about a head on frozen layers, and unfreeze: {depth} trains blocks; leave it out"
                )
        if self.lora != LoRA() and self.train != "lora":
            raise HftlError(f"lora: it says how adapters train, and train is {self.train}; add train: lora")
        for name, value, low, high in (
            ("epochs", self.epochs, 1, math.inf),
            ("lr", self.lr, 0, math.inf),
            ("layer_decay", self.layer_decay, 0, 1),
            ("warmup", self.warmup, 0, 1),
            ("weight_decay", self.weight_decay, 0, math.inf),
            ("penalty", self.penalty, 0, math.inf),
            ("patience", self.patience, 1, math.inf),
        ):
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                upper = "" if high == math.inf else f" and at most {high}"
                raise HftlError(f"{name}: {value!r} is out of range; it must be at least {low}{upper}")
        for name, value in (("temperature", self.temperature), ("head_scale", self.head_scale)):
            if value is not None and not 0 < value < math.inf:
                raise HftlError(f"{name}: {value!r} is out of range; it must be above 0")

    @property
    def head_only(self) -> bool:
        """Whether nothing inside the backbone's blocks trains."""
        return self.unfreeze in ("auto", "head", "neck")
