"""Learning-rate curves as pure functions of progress."""

from __future__ import annotations

import math

from hftl.recipe.phase import Phase


def factor(phase: Phase, step: int, steps: int) -> float:
    """The factor in [0, 1] on the phase's peak learning rate at optimizer step ``step`` (from 0) of ``steps``.

    It rises linearly over the warm-up, reaching 1 at its end, and then falls to 0 (linear, cosine) or stays.
    Even the first step moves: the warm-up's value at step k is (k + 1) / warm-up steps.
    """
    warmup_steps = math.ceil(phase.warmup * steps) if phase.warmup else 0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if phase.schedule == "linear":
        return 1 - progress
    if phase.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
