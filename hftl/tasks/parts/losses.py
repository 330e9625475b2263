"""Losses of each row, and what they have to know of how rare each label is: pure functions of tensors and arrays.

Targets may be soft: a row of probabilities instead of a label (mixed images have such), or any number between 0 and 1
for each of several labels. Smoothing, focusing and weights are then taken in expectation over the row's target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Counts = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

MOST_WEIGHT = 100.0
"""Of a label's positive rows: with a handful among a million, the rest would otherwise count for nothing."""
LEAST = 1e-7
"""Below this, 1 - p is not told from 0, where a power below 1 has no gradient."""


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float = 0.0,
    gamma: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax cross-entropy, or with ``gamma`` the focal loss -(1 - p)^gamma log p of Lin et al. 2017.

    Args:
        logits: of shape (rows, classes).
        targets: class ids, int64 of shape (rows,), or their probabilities, float of shape (rows, classes).
        smoothing: share of a label that is spread evenly over all classes, under the label's own weight.
        gamma: how much less rows count that are right already; 0, not at all.
        weights: of each label's loss, shape (classes,).

    Returns:
        Shape (rows,).
    """
    from torch.nn import functional

    hard = targets.ndim == 1
    if not gamma and (hard or weights is None):
        loss = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return loss if weights is None else loss * weights[targets]
    log_p = functional.log_softmax(logits, dim=1)
    each = _focus(-log_p, log_p, gamma)  # the loss of each class, were it the label
    each = (1 - smoothing) * each + smoothing * each.mean(dim=1, keepdim=True)
    if weights is not None:
        each = each * weights
    return each.gather(1, targets[:, None]).squeeze(1) if hard else (targets * each).sum(dim=1)


def binary_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float = 0.0,
    gamma: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sigmoid cross-entropy, the mean over the labels; with ``gamma`` the focal loss of Lin et al. 2017.

    Args:
        logits: of shape (rows, labels).
        targets: multi-hot, or anything between 0 and 1; float of shape (rows, labels).
        smoothing: share of each target that becomes 1/2, under the target's own weight.
        gamma: how much less answers count that are right already; 0, not at all.
        weights: of the loss where a label is there, shape (labels,); where it is not, the weight is 1.

    Returns:
        Shape (rows,).
    """
    from torch.nn import functional

    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    there, absent = _focus(-log_p, log_p, gamma), _focus(-log_q, log_q, gamma)
    half = smoothing / 2
    positive, negative = (1 - half) * there + half * absent, (1 - half) * absent + half * there
    if weights is not None:
        positive = positive * weights
    return (targets * positive + (1 - targets) * negative).mean(dim=1)


def _focus(loss: torch.Tensor, log_p: torch.Tensor, gamma: float) -> torch.Tensor:
    """The loss times (1 - p)^gamma."""
    return loss if not gamma else (-log_p.expm1()).clamp(min=LEAST) ** gamma * loss


def class_weights(counts: Counts) -> Floats:
    """N / (C n_c) for each class, C counting those that have rows: over the rows their mean is 1.

    Args:
        counts: rows of each class, shape (classes,); 0 is taken for 1.
    """
    return np.asarray(counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)))


def positive_weights(counts: Counts, rows: int) -> Floats:
    """Rows without each label over rows with it, at most ``MOST_WEIGHT``: both sides of a label then weigh the same.

    Args:
        counts: rows of each label, shape (labels,); 0 is taken for 1.
        rows: all of them.
    """
    return np.asarray(np.clip((rows - counts) / np.maximum(counts, 1), 1 / MOST_WEIGHT, MOST_WEIGHT))


def log_prior(counts: Counts) -> Floats:
    """Logarithm of each class's share of the rows, shape (classes,); a count of 0 is taken for 1, or it had none."""
    return np.asarray(np.log(np.maximum(counts, 1) / counts.sum()))
