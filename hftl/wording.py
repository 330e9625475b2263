"""Numbers and names as text, as display, model card and curves show them.

None of it is markup: names come from users, and a label may well be "[red]".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from hftl.records import BY_LABEL, HeadSolved, RunStarted


def score_text(value: float) -> str:
    """A score or a loss: ``0.871``, from a hundred on ``1,260``; very small and large ones in three digits."""
    if 100 <= abs(value) < 1_000_000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value == 0 or 0.0005 <= abs(value) < 100 else f"{value:.3g}"


def scores_text(scores: Mapping[str, float]) -> str:
    """Scores in one line: ``accuracy 0.871  macro_f1 0.869  loss 0.412``."""
    return "  ".join(f"{one_line(name)} {score_text(scores[name])}" for name in score_names([scores]))


def score_names(scores: Iterable[Mapping[str, float]]) -> list[str]:
    """The names in all of these scores, in the order met, the loss last; without those of single labels."""
    names = dict.fromkeys(name for each in scores for name in each if not name.startswith(BY_LABEL))
    return sorted(names, key=lambda name: name == "loss")


def count_text(count: int) -> str:
    """A number of things: ``12,345``, from a million ``2.2M``, from a thousand million ``1.3B``."""
    if count < 1_000_000:
        return f"{count:,}"
    return f"{count / 1e6:,.1f}M" if count < 999_950_000 else f"{count / 1e9:,.1f}B"


def rows_text(rows: Mapping[str, int]) -> str:
    """Rows by split: ``1,024 train + 256 validation``."""
    return " + ".join(f"{count:,} {one_line(split)}" for split, count in rows.items())


def size_text(size: float) -> str:
    """Bytes: ``2.6 kB``, ``12.8 MB``, ``3.4 GB``."""
    unit = next((unit for unit in (1e3, 1e6) if size < 1000 * unit), 1e9)
    return f"{size / unit:,.1f} { {1e3: 'kB', 1e6: 'MB', 1e9: 'GB'}[unit] }"


def rate_text(lr: float) -> str:
    """A learning rate with three significant digits: ``1e-3``, ``2.43e-5``."""
    mantissa, exponent = f"{lr:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if lr else "0"


def seconds_text(seconds: float) -> str:
    """A time: ``3.2 s``, ``42 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def trained_text(trainable: int, parameters: int) -> str:
    """How much trains: ``12,345 of 2.2M parameters (0.561 %)``."""
    share = 100 * trainable / parameters if parameters else 0.0
    return f"{count_text(trainable)} of {count_text(parameters)} parameters ({share:.3g} %)"


def phase_text(unfreeze: str, train: str, refit: bool = False) -> str:
    """What a phase trains, in words: ``head``, ``top 4 blocks``, ``all, lora``; and whether on all rows."""
    return depth_text(unfreeze) + ("" if train == "weights" else f", {train}") + (", on all rows" if refit else "")


def length_text(solver: str, epochs: int, steps_per_epoch: int) -> str:
    """How long a phase trains: ``3 epochs x 40 steps``, ``solved``, or both where only the last layer is solved."""
    steps = f"{epochs} epoch{'s' if epochs > 1 else ''} x {steps_per_epoch:,} steps"
    if solver != "lbfgs":
        return steps
    return f"last layer solved, then {steps}" if epochs else "solved"


def head_text(record: HeadSolved) -> str:
    """How a head was solved: ``classifier solved for 640 rows of 384 features, L2 penalty 0.25 …``."""
    chosen = f"chosen by {record.folds} folds" if record.folds else "as declared"
    return (
        f"{one_line(record.layer)} solved for {record.rows:,} rows of {record.width:,} features, L2 penalty "
        f"{score_text(record.penalty)} and temperature {score_text(record.temperature)} {chosen}"
    )


def place_text(phase: int, epoch: int | None) -> str:
    """``phase 1, epoch 3``; ``phase 0, the solved head``."""
    return f"phase {phase}, " + ("the solved head" if epoch is None else f"epoch {epoch}")


def depth_text(unfreeze: str) -> str:
    """What a phase unfreezes, in words: ``head``, ``top 4 blocks``, ``top 25 % of the blocks``."""
    if unfreeze.isdecimal():
        return "top block" if unfreeze == "1" else f"top {unfreeze} blocks"
    try:
        return f"top {100 * float(unfreeze):.3g} % of the blocks"
    except ValueError:
        return unfreeze


def batch_text(record: RunStarted) -> str:
    """The rows of a step and how they are cut: ``32 (2 processes x 4 micro-batches x 4 rows)``."""
    parts = [f"{record.processes} processes"] * (record.processes > 1)
    parts += [f"{record.accumulation} micro-batches"] * (record.accumulation > 1)
    rows = math.ceil(record.batch_size / (record.processes * record.accumulation))
    return f"{record.batch_size} ({' x '.join([*parts, f'{rows} rows'])})" if parts else str(record.batch_size)


JOINERS = "\u200c\u200d\u200e\u200f"
"""Invisible, but part of how Persian, Indian scripts and emoji are written."""


def few_text(names: Sequence[str], few: int = 5) -> str:
    """The first few names: ``cat, dog, +3 more``."""
    more = [f"+{len(names) - few:,} more"] if len(names) > few else []
    return ", ".join([*map(one_line, names[:few]), *more])


def one_line(text: str) -> str:
    """The text without line breaks and control characters; what joins letters or emoji stays."""
    return " ".join("".join(c if c.isprintable() or c in JOINERS else " " for c in text).split())
