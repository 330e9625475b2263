"""Named strategies: functions that return phases. Epochs and learning rates left unset are those of ``defaults``."""

from __future__ import annotations

from collections.abc import Callable

from hftl.errors import HftlError
from hftl.recipe.phase import Phase

Phases = tuple[Phase, ...]


def pretrained() -> Phases:
    """No training: the model's own head is scored on the data; its labels must match."""
    return ()


def linear_probe(epochs: int | None = None, lr: float | None = None) -> Phases:
    """Train the head on frozen features."""
    return (Phase("auto", epochs, lr),)


def full(epochs: int | None = None, lr: float | None = None, layer_decay: float = 1.0) -> Phases:
    """Train everything from the start, new head included."""
    return (Phase("all", epochs, lr, layer_decay),)


def lp_ft(
    head_epochs: int | None = None,
    epochs: int | None = None,
    head_lr: float | None = None,
    lr: float | None = None,
    layer_decay: float = 1.0,
) -> Phases:
    """Linear probing, then full fine-tuning: the head is good before the features may move.

    Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution".
    """
    return (Phase("auto", head_epochs, head_lr), Phase("all", epochs, lr, layer_decay))


def gradual(
    head_epochs: int | None = None,
    epochs: int | None = None,
    head_lr: float | None = None,
    lr: float | None = None,
    layer_decay: float = 1.0,
) -> Phases:
    """Unfreeze from the top: head, top quarter, top half, all; ``epochs`` for each after the head.

    Source: gradual unfreezing of Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text
    Classification", by quarters instead of single layers.
    """
    deeper: tuple[float | str, ...] = (0.25, 0.5, "all")
    return (Phase("auto", head_epochs, head_lr), *(Phase(depth, epochs, lr, layer_decay) for depth in deeper))


def lora(
    head_epochs: int | None = None, epochs: int | None = None, head_lr: float | None = None, lr: float | None = None
) -> Phases:
    """Linear probing, then low-rank adapters beside the frozen weights of all blocks.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; the head first, as in ``lp_ft``.
    """
    return (Phase("auto", head_epochs, head_lr), Phase("all", epochs, lr, train="lora"))


NAMED: dict[str, Callable[[], Phases]] = {
    "pretrained": pretrained,
    "linear-probe": linear_probe,
    "full": full,
    "lp-ft": lp_ft,
    "gradual": gradual,
    "lora": lora,
}


def by_name(name: str) -> Phases:
    """The phases of a named strategy at its defaults.

    Raises:
        HftlError: no strategy has that name.
    """
    if name not in NAMED:
        raise HftlError(f"phases: no strategy is called {name!r}; there are {', '.join(NAMED)}")
    return NAMED[name]()
