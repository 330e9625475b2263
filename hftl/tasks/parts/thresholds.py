"""From which probability on a label is given, where a row may have any number of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Probabilities = npt.NDArray[np.float64]
    Hot = npt.NDArray[np.bool_]

FEW = 5
"""Labels with fewer positive rows than this do not get a threshold of their own."""


def tuned_thresholds(probabilities: Probabilities, labels: Hot) -> Probabilities:
    """The threshold of each label, of highest F1 on these rows.

    One threshold for each label maximises macro F1 (Lipton et al. 2014, "Optimal thresholding of classifiers to
    maximize F1 measure"; "SCut" in Yang 2001, "A study of thresholding strategies for text categorization"). Both
    find that it overfits a label with few positive rows, so that those with fewer than ``FEW`` share one threshold, of
    the highest F1 over all their rows together; where these have fewer than ``FEW`` too, it is 0.5.

    Args:
        probabilities: of each label, shape (rows, labels).
        labels: multi-hot, shape (rows, labels).

    Returns:
        Shape (labels,). A label is given where its probability is at least its threshold.
    """
    found = best_thresholds(probabilities, labels)
    rare = labels.sum(axis=0) < FEW
    if labels[:, rare].sum() < FEW:
        found[rare] = 0.5
    else:
        found[rare] = best_thresholds(probabilities[:, rare].reshape(-1, 1), labels[:, rare].reshape(-1, 1))[0]
    return found


def best_thresholds(probabilities: Probabilities, labels: Hot) -> Probabilities:
    """The threshold with the highest F1 of each column: exactly, by trying every cut between two of its values.

    Cuts lie half way between neighbouring values; 0.5 is tried too, and of equally good ones the nearest to it is
    taken. A column without positive rows gets 0.5.

    Args:
        probabilities: shape (rows, labels).
        labels: which are positive, of the same shape.

    Returns:
        Shape (labels,).
    """
    order = np.argsort(-probabilities, axis=0, kind="stable")
    values = np.take_along_axis(probabilities, order, axis=0)
    below = np.vstack([values[1:], np.zeros_like(values[:1])])
    positives, rows = labels.sum(axis=0), np.arange(1, len(values) + 1)[:, None]
    hits = np.take_along_axis(labels, order, axis=0).cumsum(axis=0)
    f1 = np.where(values > below, 2 * hits / (rows + positives), -1.0)  # equal values cannot be cut apart
    half_way = (values + below) / 2
    cuts = np.where(half_way > below, half_way, values)  # neighbouring floats have nothing between them

    plain = probabilities >= 0.5
    plain_f1 = 2 * (plain & labels).sum(axis=0) / np.maximum(plain.sum(axis=0) + positives, 1)
    distance = np.where(f1 == f1.max(axis=0), abs(cuts - 0.5), np.inf)
    nearest = np.take_along_axis(cuts, distance.argmin(axis=0)[None], axis=0)[0]
    return np.where((plain_f1 >= f1.max(axis=0)) | (positives == 0), 0.5, nearest)


def commonest_labels(labels: Hot) -> Hot:
    """The labels to give to every row, known nothing else: the commonest, as many as have the highest micro F1.

    Args:
        labels: multi-hot, shape (rows, labels).

    Returns:
        Shape (labels,).
    """
    counts = labels.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    given = np.arange(1, len(counts) + 1)
    f1 = 2 * counts[order].cumsum() / (given * len(labels) + counts.sum())
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[order[: f1.argmax() + 1]] = True
    return chosen
