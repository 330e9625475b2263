"""Stratified samples: pure functions of labels, size and seed, the same on every machine."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]
Hot: TypeAlias = NDArray[np.bool_]
"""Yes or no: of rows, shape [rows], or multi-hot, shape [rows, labels]."""


def stratified(labels: Ids, size: int, seed: int, *, leave_one: bool = False) -> Ids:
    """Which rows make a sample with the classes in their proportions.

    Classes are weighted by largest remainder; every class gets at least one row where ``size`` allows.

    Args:
        labels: class of each row, shape [rows].
        size: rows in the sample; all of them where there are fewer.
        seed: which of the equally good samples.
        leave_one: never take the last row of a class, so that what is left has every class too.

    Returns:
        Row numbers, ascending, shape [size] (fewer where ``leave_one`` leaves no more).
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quota = quotas(counts.astype(np.int64), size, counts.astype(np.int64) - int(leave_one))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[place_in_class < np.repeat(quota, counts)]).astype(np.int64)


def rarest(has: Hot) -> Ids:
    """The stratum of each row where rows have any number of labels: its rarest label, -1 where it has none.

    Each label's rows are then in proportion as nearly as one stratum a row allows, the rare ones first of all (as in
    the iterative stratification of Sechidis et al. 2011, without its repeated choice).

    Args:
        has: which row has which label, shape [rows, labels].

    Returns:
        Label numbers, shape [rows]; of equally rare ones the first.
    """
    order = np.argsort(has.sum(axis=0), kind="stable")
    first = order[has[:, order].argmax(axis=1)]
    return np.where(has.any(axis=1), first, -1).astype(np.int64)


def spare(has: Hot, chosen: Ids) -> Ids:
    """Those of the ``chosen`` rows that can go: of a label that would lose all its rows, one stays behind.

    Args:
        has: which row has which label, shape [rows, labels].
        chosen: row numbers.
    """
    lost = has.any(axis=0) & ~np.delete(has, chosen, axis=0).any(axis=0)
    return np.delete(chosen, has[chosen][:, lost].argmax(axis=0)) if lost.any() else chosen


def groups_of(groups: NDArray[Any], fraction: float, seed: int) -> Ids:
    """Which rows make a sample of whole groups, at most ``fraction`` of the rows, but one group at least.

    Args:
        groups: the group of each row, shape [rows].
        fraction: from 0 (no row at all) to 1.
        seed: which of the groups.

    Returns:
        Row numbers, ascending.
    """
    if not fraction:
        return np.empty(0, dtype=np.int64)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[inverse]  # numbered as they come, whatever they are called
    sizes = np.bincount(group)
    taken, left = list[int](), fraction * len(group)
    for each in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if sizes[each] <= left:  # a group may be larger than all that is wanted
            taken.append(each)
            left -= sizes[each]
    return np.flatnonzero(np.isin(group, taken or [int(sizes.argmin())]))


def even_frequencies(labels: NDArray[Any]) -> NDArray[np.float64]:
    """How often to draw each row, relative to the others, for every label to come equally often.

    Args:
        labels: class of each row, shape [rows]; or which row has which label, shape [rows, labels].

    Returns:
        One over the rows of its label, or of the rarest of its labels (or, of a row without any, over the rows
        without); shape [rows].
    """
    if labels.ndim == 1:
        return np.asarray(1 / np.bincount(labels)[labels])
    strata = rarest(labels)
    return np.asarray(1 / np.array([*labels.sum(axis=0), (strata == -1).sum()])[strata])  # of -1: the last entry


def quotas(counts: Ids, size: int, most: Ids) -> Ids:
    """Rows to take from each class: in proportion to ``counts``, at most ``most``, at least one where size allows.

    In whole numbers throughout, so that no rounding differs between machines; ties go to the first class.
    """
    size = min(size, int(most.sum()))
    total = max(int(counts.sum()), 1)
    least = np.minimum(most, 1) if size >= int(np.minimum(most, 1).sum()) else np.zeros_like(most)
    taken = np.clip(counts * size // total, least, most)
    while (missing := size - int(taken.sum())) != 0:
        # How far each class is from its exact share, in units of 1/total rows.
        short = (counts * size - taken * total) * np.sign(missing)
        open_to_change = taken < most if missing > 0 else taken > least
        order = np.argsort(-np.where(open_to_change, short, np.iinfo(np.int64).min + 1), kind="stable")
        chosen = order[: min(abs(missing), int(open_to_change.sum()))]
        taken[chosen] += np.sign(missing)
    return taken
