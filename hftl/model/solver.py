"""A linear head on fixed features, solved: a convex problem, whose optimum costs seconds where steps only come near it.

The penalty on the weights is chosen by stratified cross-validation. Everything is deterministic: the same rows give the
same head.

Sources: the penalised multinomial regression of Hastie, Tibshirani and Friedman 2009, "The Elements of Statistical
Learning", 4.4; linear probes by L-BFGS with a penalty that is searched for, in Kornblith et al. 2019, "Do Better
ImageNet Models Transfer Better?", and Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision"; the temperature of Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The loss of each row, shape (rows,), from logits of shape (rows, outputs) and the rows' targets."""
Ids = npt.NDArray[np.int64]

PENALTIES = tuple(10.0 ** (2 - 0.5 * step) for step in range(15))
"""What is tried, strongest first: the factor on half the squared weights, beside the mean loss of a row, where features
have a variance of about one."""
FOLDS = 5
RISING = 3
"""So many weaker penalties in a row that are worse than the best end the search."""
MOST_ITERATIONS = 1000
MOST_ROWS = 10_000
"""Of more rows, so many choose the penalty."""
SCALES = (-3.0, 5.0)
"""Between these powers of e logits are scaled to fit the rows that were left out."""
SMALLEST = 1e-10
"""Directions in which features vary less than this part of the largest variance are left out."""


@dataclass(frozen=True)
class Rows:
    """What a head is fitted to."""

    features: torch.Tensor
    """Shape (rows, width)."""
    targets: torch.Tensor
    """Shape (rows, …), as the loss takes them."""
    strata: Ids
    """The class of each row, which folds keep in proportion; shape (rows,)."""
    groups: Ids
    """Rows of one group are left out together, as views of one image are; shape (rows,)."""
    weights: torch.Tensor | None = None
    """How much each row counts; shape (rows,)."""


@dataclass(frozen=True)
class Solution:
    """A head at its optimum."""

    weight: torch.Tensor
    """Shape (outputs, width), float32."""
    bias: torch.Tensor | None
    """Shape (outputs,), float32."""
    penalty: float
    temperature: float
    """What the logits of the penalised optimum are divided by; ``weight`` and ``bias`` are divided already."""
    folds: int = 0
    """How many there were; 0 where nothing had to be chosen."""
    loss: float = float("nan")
    """Mean loss of the rows that were left out, each by its fold."""
    left_out: torch.Tensor | None = field(default=None, repr=False)
    """Logits of each row by the head of the folds it was not in; shape (rows, outputs), float32."""


def solve(
    rows: Rows,
    loss: Loss,
    outputs: int,
    bias: bool = True,
    penalty: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> Solution:
    """The linear head of the least mean loss plus penalty on these rows.

    A strong penalty finds good directions from few rows and makes logits too small; weak ones are only chosen for their
    scale then. So the penalty is at least the one of the lowest loss on rows that were left out, and of those the one
    of the lowest loss once a temperature has put the scale right.

    Args:
        rows: features and targets.
        loss: convex in the logits (a focal loss is not, and gets an optimum near the one of all zeros).
        outputs: logits of a row.
        bias: whether the head has one.
        penalty: None, chosen by folds; of a single group, the strongest.
        temperature: None, chosen with the penalty, or 1 where that is given.
        seed: of the folds.
    """
    space = _Space.of(rows.features, centred=bias)
    if penalty is None and len(np.unique(rows.groups)) == 1:  # none of them can be left out
        penalty = PENALTIES[0]
    if penalty is not None:
        head = _optima(space, rows, loss, outputs, bias, penalty, _shares(rows)[:, None])
        return _solution(space, head[:, 0], bias, penalty, temperature or 1.0)
    folds = folds_of(rows.strata, rows.groups, seed)
    tried = _sample(rows, folds, seed)
    part, inside = _part(rows, tried), _Space(space.mean, space.scale, space.axes, space.variances, space.rows[tried])
    chosen, temperature, mean, left_out = _chosen(inside, part, folds[tried], loss, outputs, bias)
    # A penalty is as many rows' worth of belief that weights are small: more rows need less of it beside their mean.
    penalty = chosen * _rows_fitted(folds[tried]) / len(space.rows)
    head = _optima(space, rows, loss, outputs, bias, penalty, _shares(rows)[:, None])
    found = _solution(space, head[:, 0], bias, penalty, temperature)
    whole = left_out if len(tried) == len(folds) else None
    return replace(found, folds=int(folds.max()) + 1, loss=mean, left_out=whole)


def folds_of(strata: Ids, groups: Ids, seed: int) -> Ids:
    """The fold in which each row is left out, shape (rows,): at most ``FOLDS``, as many as the rarest class has groups.

    Every class is spread over them as evenly as can be. There are two at least, also where a class has a single group.
    """
    names, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    classes = strata[first]
    counts = np.unique(classes, return_counts=True)[1]
    number = int(np.clip(counts.min(), 2, FOLDS))
    rng, order = np.random.default_rng(seed), np.empty(len(names), dtype=np.int64)
    begin = 0
    for name in np.unique(classes):
        own = rng.permutation(np.flatnonzero(classes == name))
        order[own] = (begin + np.arange(len(own))) % number
        begin += len(own)  # rare classes do not all go into the first folds
    return np.asarray(order[inverse])


@dataclass(frozen=True)
class _Space:
    """Features along their principal axes: there a penalised problem is nearly round, and few steps solve it."""

    mean: torch.Tensor
    scale: torch.Tensor
    axes: torch.Tensor
    """Shape (width, axes)."""
    variances: torch.Tensor
    """Shape (axes,)."""
    rows: torch.Tensor
    """Shape (rows, axes), double precision."""

    @classmethod
    def of(cls, features: torch.Tensor, centred: bool) -> _Space:
        """The space of these rows.

        Each feature is divided by the root of its deviation times that of all: half way from features as they are, of
        which only the large ones count, to features of one variance, of which the noise of nearly dead ones does.
        """
        plain = features.double()
        mean = plain.mean(dim=0) if centred else plain.new_zeros(plain.shape[1])
        plain = plain - mean
        squares = plain.square().mean(dim=0)
        scale = (squares * squares.mean()).pow(0.25)
        scale[scale == 0] = torch.inf  # a feature that is always the same
        plain = plain / scale
        wide = plain.shape[1] > len(plain)
        values, vectors = torch.linalg.eigh(plain @ plain.T if wide else plain.T @ plain)
        kept = values > SMALLEST * values.max().clamp(min=torch.finfo(values.dtype).tiny)
        values, vectors = values[kept].flip(0), vectors[:, kept].flip(1)
        axes = plain.T @ vectors / values.sqrt() if wide else vectors
        return cls(mean, scale, axes, values / len(plain), plain @ axes)


def _shares(rows: Rows, left_out: torch.Tensor | None = None) -> torch.Tensor:
    """What each row counts in the mean: they sum to 1; those that are left out count 0."""
    weights = torch.ones(len(rows.features), dtype=torch.float64) if rows.weights is None else rows.weights.double()
    weights = weights if left_out is None else weights.masked_fill(left_out, 0)
    return weights / weights.sum()


def _optima(
    space: _Space,
    rows: Rows,
    loss: Loss,
    outputs: int,
    bias: bool,
    penalty: float,
    shares: torch.Tensor,
    start: torch.Tensor | None = None,
    tolerance: float = 1e-9,
) -> torch.Tensor:
    """The optima of several problems that differ in what each row counts, by one L-BFGS for all.

    Args:
        space: features.
        rows: targets.
        loss: of each row.
        outputs: logits of a row.
        bias: whether the heads have one.
        penalty: of all problems.
        shares: what each row counts, shape (rows, problems); each column sums to 1. The search has its precision.
        start: what an earlier call has returned.
        tolerance: the search ends where a step lowers the mean of the problems' losses by less than this.

    Returns:
        Shape (axes + 1, problems, outputs): the weight along each axis, and in the last row the bias.
    """
    problems, features = shares.shape[1], space.rows.to(shares.dtype)
    # The curvature along each axis is about this: divided by its root, all are alike.
    curvature = torch.cat([0.25 * space.variances + penalty, space.variances.new_ones(1)])
    root = curvature.sqrt().to(shares.dtype)[:, None, None]
    targets = rows.targets.repeat_interleave(problems, dim=0)
    begin = shares.new_zeros(len(root), problems, outputs) if start is None else start * root
    point = begin.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=MOST_ITERATIONS,
        history_size=20,
        tolerance_grad=0.0,
        tolerance_change=tolerance * problems,
        line_search_fn="strong_wolfe",
    )

    def total() -> torch.Tensor:
        optimizer.zero_grad()
        heads = point / root
        logits = _logits(features, heads, bias)
        value = (shares.flatten() * loss(logits.flatten(0, 1), targets)).sum()
        value = value + 0.5 * penalty * heads[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(total)  # type: ignore[no-untyped-call]
    return point.detach() / root


def _logits(rows: torch.Tensor, heads: torch.Tensor, bias: bool) -> torch.Tensor:
    """Of each row by each head, shape (rows, heads, outputs)."""
    products = (rows @ heads[:-1].flatten(1)).view(len(rows), *heads.shape[1:])
    return products + heads[-1] if bias else products


def _chosen(
    space: _Space, rows: Rows, folds: Ids, loss: Loss, outputs: int, bias: bool
) -> tuple[float, float, float, torch.Tensor]:
    """The penalty and temperature that fit rows that were left out best, the mean loss of these, and their logits."""
    out = torch.from_numpy(folds)
    shares = torch.stack([_shares(rows, out == fold) for fold in range(int(folds.max()) + 1)], dim=1).float()
    everything = _shares(rows)
    heads: torch.Tensor | None = None
    left_out: list[torch.Tensor] = []
    losses: list[float] = []

    def mean_loss(logits: torch.Tensor) -> float:
        return float((everything * loss(logits, rows.targets)).sum())

    for penalty in PENALTIES:
        heads = _optima(space, rows, loss, outputs, bias, penalty, shares, heads, tolerance=1e-6)
        logits = _logits(space.rows, heads.double(), bias)[torch.arange(len(out)), out]
        left_out.append(logits)
        losses.append(mean_loss(logits))
        best = int(np.argmin(losses))
        if len(losses) - 1 - best == RISING:
            break
    tempered = [_temperature(logits, mean_loss) for logits in left_out[: best + 1]]
    chosen = min(range(best + 1), key=lambda index: tempered[index][1])
    temperature, mean = tempered[chosen]
    return PENALTIES[chosen], temperature, mean, (left_out[chosen] / temperature).float()


def _temperature(logits: torch.Tensor, mean_loss: Callable[[torch.Tensor], float]) -> tuple[float, float]:
    """What to divide logits by for the lowest mean loss, and that loss."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: mean_loss(logits * float(np.exp(power))), bounds=SCALES, method="bounded", options={"xatol": 0.01}
    )
    return float(np.exp(-found.x)), float(found.fun)


def _sample(rows: Rows, folds: Ids, seed: int) -> Ids:
    """Which rows choose the penalty, ascending: all of them, or ``MOST_ROWS`` in the proportions of the classes."""
    from hftl.data.sampling import stratified

    if len(folds) <= MOST_ROWS:
        return np.arange(len(folds))
    return stratified(rows.strata, MOST_ROWS, seed)


def _part(rows: Rows, chosen: Ids) -> Rows:
    if len(chosen) == len(rows.strata):
        return rows
    where = torch.from_numpy(chosen)
    weights = None if rows.weights is None else rows.weights[where]
    return Rows(rows.features[where], rows.targets[where], rows.strata[chosen], rows.groups[chosen], weights)


def _rows_fitted(folds: Ids) -> float:
    """How many rows a fold's head is fitted to, on average."""
    return len(folds) * (1 - 1 / (int(folds.max()) + 1))


def _solution(space: _Space, head: torch.Tensor, bias: bool, penalty: float, temperature: float) -> Solution:
    """The head, shape (axes + 1, outputs), in terms of the features themselves."""
    weight = (space.axes @ head[:-1]) / space.scale[:, None] / temperature
    offset = (head[-1] / temperature - space.mean @ weight).float() if bias else None
    return Solution(weight.T.float().contiguous(), offset, penalty, temperature)
