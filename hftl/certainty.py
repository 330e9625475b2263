"""How sure a score is, and whether one model is better than another on the rows that both have answered.

A score on 80 rows is uncertain by some points; the difference of two models on the same rows is less so, for they are
right and wrong about the same ones mostly. What is kept of an evaluation is therefore how right it is in each of a few
parts of the rows, the same parts in every evaluation.

Source: the paired comparison and the rule of one standard error of Breiman et al. 1984, "Classification and Regression
Trees", and Hastie, Tibshirani and Friedman 2009, "The Elements of Statistical Learning", 7.10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PARTS = 40
"""Most parts: enough to tell a standard error to a tenth, few enough to be kept with every evaluation."""


def parts_of(correctness: npt.NDArray[np.float64]) -> list[float]:
    """The mean in each part of the rows, which are dealt out at random, always alike.

    Args:
        correctness: of each row, from 0 (wrong) to 1 (right); shape (rows,).
    """
    order = np.random.default_rng(0).permutation(len(correctness))
    return [float(correctness[order[part::PARTS]].mean()) for part in range(min(PARTS, len(correctness)))]


def error_of(parts: Sequence[float]) -> float | None:
    """The standard error of the mean over all rows; None of fewer than two parts, which cannot tell."""
    return float(np.std(parts, ddof=1)) / math.sqrt(len(parts)) if len(parts) > 1 else None


def error_of_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The standard error of how much the one is better than the other on the same rows; 0 where it cannot be told."""
    return 0.0 if len(one) != len(other) else error_of(np.subtract(one, other).tolist()) or 0.0
