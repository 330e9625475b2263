"""What a recipe leaves open, filled in by what is known before training: the rows, the model, where it starts.

One rule for all: a head is solved; blocks then train from that head, made small, for as many steps as the rows ask for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hftl.recipe.phase import Phase

BATCH = 16
LARGE_BATCH = 32
MANY_ROWS = 10_000
"""From so many rows on, steps have ``LARGE_BATCH`` rows; of more, those that validate are not trained on afterwards."""
STEPS = 200
"""Epochs of blocks are as many as make so many steps …"""
MOST_EPOCHS, FEWEST_EPOCHS = 20, 3
"""… within these. Ten were too few for 10 rows a class of images and sounds, and as good as twenty for 200 texts."""
HEAD_EPOCHS = 10
HEAD_SCALE = 0.1
"""What a trained head is multiplied by before blocks train below it: as it is, it leaves them little to learn."""
SOLVED_LR = 3e-4
"""Of a head of several layers whose last one is solved."""


@dataclass(frozen=True)
class Known:
    """What is known of a run before it starts."""

    rows: int
    """Examples in an epoch."""
    start: str
    """What ``auto`` is: head or neck."""
    head_lr: float
    """Of a head, in steps."""
    lr: float
    """Of whole blocks."""
    narrower: float = 1.0
    """How many times narrower the model is than those that ``lr`` is for."""
    linear: bool = True
    """Whether a linear layer makes the logits of a row."""
    stored: bool = True
    """Whether features of frozen layers may be stored."""
    faster: float = 1.0
    """How many times the usual rate such a model learns at."""
    far: bool = False
    """Whether the model was trained on another kind of data, so that its blocks have more to learn."""


def batch_size(rows: int) -> int:
    """Rows of a step."""
    return LARGE_BATCH if rows >= MANY_ROWS else BATCH


def epochs(rows: int, batch: int) -> int:
    """Passes over the rows while blocks train."""
    return int(min(max(math.ceil(STEPS * batch / max(rows, 1)), FEWEST_EPOCHS), MOST_EPOCHS))


def resolved(phases: Sequence[Phase], known: Known, batch: int) -> tuple[Phase, ...]:
    """The phases with nothing left open."""
    shared = sum(not phase.head_only and phase.epochs is None for phase in phases)
    found: list[Phase] = []
    for phase in phases:
        if phase.head_only:
            found.append(_head(phase, known))
        else:
            share = math.ceil(epochs(known.rows, batch) / max(shared, 1))
            after_head = bool(found) and found[-1].head_only
            found.append(_blocks(phase, known, share, after_head))
    return tuple(found)


def _head(phase: Phase, known: Known) -> Phase:
    """A head on frozen layers: solved, unless the way it steps is declared."""
    steps = phase.epochs is not None or phase.lr is not None or not known.linear or not known.stored
    solver: Literal["lbfgs", "steps"] = phase.solver or ("steps" if steps else "lbfgs")
    return dataclasses.replace(
        phase,
        unfreeze=known.start if phase.unfreeze == "auto" else phase.unfreeze,
        solver=solver,
        epochs=phase.epochs or HEAD_EPOCHS,
        lr=phase.lr if phase.lr is not None else SOLVED_LR if solver == "lbfgs" else known.head_lr,
        batch_norm=phase.batch_norm or "keep",
        head_scale=phase.head_scale or 1.0,
    )


def _blocks(phase: Phase, known: Known, share: int, after_head: bool) -> Phase:
    """Blocks that train. Adapters, biases and norms alone learn best about ten times as fast as all weights.

    Source of that: Schulman et al. 2025, "LoRA Without Regret", for adapters. In models that learn faster as a whole
    they gain by the root of it: YAMNet's, on 10 and 30 spoken digits a class, were right about 0.50 and 0.61 at 1e-3,
    0.59 and 0.72 at 3e-3, 0.28 and 0.61 at 1e-2.
    """
    if phase.train == "weights":
        lr = known.lr * known.narrower * known.faster
    else:
        lr = 10 * known.lr * math.sqrt(known.faster)
    return dataclasses.replace(
        phase,
        epochs=phase.epochs or share,
        lr=lr if phase.lr is None else phase.lr,
        batch_norm=phase.batch_norm or ("update" if known.far else "keep"),
        head_scale=phase.head_scale or (HEAD_SCALE if after_head and known.linear else 1.0),
    )


def reasons(declared: Sequence[Phase], found: Sequence[Phase], known: Known, batch: int) -> tuple[str, ...]:
    """What was left open and why it is now as it is, a line for each phase that had something open."""
    lines = []
    for number, (before, after) in enumerate(zip(declared, found, strict=True)):
        if after.head_only:
            if before.solver is None and after.solver == "steps":
                lines.append(f"phase {number}: the head is trained in steps ({_why_in_steps(before, known)})")
            continue
        filled_in = [
            *([f"{after.epochs} epochs"] if before.epochs is None else []),
            *([f"lr {after.lr:.2g}"] if before.lr is None else []),
            *([f"head scaled by {after.head_scale:g}"] if before.head_scale is None and after.head_scale != 1 else []),
        ]
        if filled_in:
            narrow = known.narrower != 1 and after.train == "weights"
            wide = f", a model {known.narrower:.2g} times narrower than usual" if narrow else ""
            times = known.faster if after.train == "weights" else math.sqrt(known.faster)
            fast = f", of a kind that learns at {times:.2g} times the usual rate" if times != 1 else ""
            rows = f"{known.rows:,} rows in batches of {batch}"
            lines.append(f"phase {number}: {', '.join(filled_in)}: {rows}{wide}{fast}")
    return tuple(lines)


def _why_in_steps(declared: Phase, known: Known) -> str:
    given = [name for name in ("epochs", "lr") if getattr(declared, name) is not None]
    if given:
        return f"{' and '.join(given)} set; unset, it is solved"
    return "features are not stored" if known.linear else "no linear layer makes its logits"
