"""Answers as spans: from what a model gives for each token of each window to the best answers of each question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from hftl.data.batches import Batch, Outputs
from hftl.errors import HftlError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

FAR = 1e6
"""More than two scores are ever apart."""


def candidates(
    start: torch.Tensor,
    end: torch.Tensor,
    places: Mapping[str, torch.Tensor],
    most: int,
    longest: int,
) -> dict[str, torch.Tensor]:
    """The best spans of each window, exactly: no other (start, end) within the context and the length has more.

    A span's score is the sum of its two logits. Its start is among the ``most`` whose best span has the highest score:
    each of those beats all spans of the other starts. So only their ends are looked at one by one.

    Args:
        start: logits that an answer starts at a token, shape (windows, positions), float32.
        end: that one ends there, likewise.
        places: ``begins`` and ``ends``, the characters of the context at which each token begins and ends, -1 for what
            is no token of the context, shape (windows, positions); ``null``, the position that stands for no answer,
            shape (windows,).
        most: how many spans of each window.
        longest: tokens that a span may have.

    Returns:
        ``score``, ``begin`` and ``end`` of the spans, best first, shape (windows, most), in characters, score -inf
        where there are no more; ``null``, the score of no answer, and ``mass``, the logarithm of the sum of exp(score)
        over all spans, shape (windows,).
    """
    inside = places["begins"] >= 0
    room = max(0, most - start.shape[1])  # as many starts as are asked for
    low = -torch.inf
    starts = functional.pad(start.masked_fill(~inside, low), (0, room), value=low)
    ends = functional.pad(end.masked_fill(~inside, low), (0, room + longest - 1), value=low)
    reach = functional.max_pool1d(ends[:, None], longest, stride=1)[:, 0]
    first = (starts + reach).topk(most, dim=1).indices
    last = first[:, :, None] + torch.arange(longest, device=start.device)
    scores = starts.gather(1, first)[:, :, None] + ends.gather(1, last.flatten(1)).view(last.shape)
    score, chosen = scores.flatten(1).topk(most, dim=1)
    null = places["null"][:, None]
    limit = start.shape[1] - 1
    begin = first.gather(1, chosen // longest).clamp(max=limit)
    finish = last.flatten(1).gather(1, chosen).clamp(max=limit)
    return {
        "score": score,
        "begin": places["begins"].gather(1, begin),
        "end": places["ends"].gather(1, finish),
        "null": (start.gather(1, null) + end.gather(1, null))[:, 0],
        "mass": _mass(starts, ends, longest),
    }


def _mass(starts: torch.Tensor, ends: torch.Tensor, longest: int) -> torch.Tensor:
    """The logarithm of the sum of exp(score) over all spans, shape (windows,); -inf where there is none."""
    top = ends.amax(dim=1, keepdim=True).clamp(min=torch.finfo(ends.dtype).min)
    sums = functional.avg_pool1d((ends - top).exp()[:, None], longest, stride=1)[:, 0] * longest
    return torch.logsumexp(starts + sums.log() + top, dim=1)


@dataclass(frozen=True)
class Best:
    """Of each question the best span of all windows, and no answer beside it; each of shape (questions,)."""

    begin: Ints
    end: Ints
    score: Floats
    null: Floats
    """The lowest of its windows' (an answer in one of them is enough)."""
    mass: Floats
    """The logarithm of the sum of exp(score) over all spans of all windows and no answer: what probabilities are
    shares of."""

    @property
    def margin(self) -> Floats:
        """By how much no answer has more than the best span; finite where there is no span at all."""
        return np.clip(self.null - self.score, -FAR, FAR)


def best(outputs: Outputs, questions: int) -> Best:
    """From the candidates of the windows (``outputs`` as ``candidates`` gives it, and ``question``: whose they are)."""
    of, score = outputs["question"], outputs["score"][:, 0].astype(np.float64)
    order = np.lexsort((-score, of))  # stable: of equals, the first window
    _, heads = np.unique(of[order], return_index=True)
    winner = order[heads]
    assert len(winner) == questions, "each question has a window"
    null = np.full(questions, np.inf)
    np.minimum.at(null, of, outputs["null"].astype(np.float64))
    mass = null.copy()
    np.logaddexp.at(mass, of, outputs["mass"].astype(np.float64))
    first = {name: outputs[name][winner, 0].astype(np.int64) for name in ("begin", "end")}
    return Best(first["begin"], first["end"], score[winner], null, mass)


def by_question(outputs: Outputs, questions: int) -> list[Ints]:
    """Which windows are each question's."""
    order = np.argsort(outputs["question"], kind="stable")
    bounds = np.searchsorted(outputs["question"][order], np.arange(1, questions))
    return np.split(order, bounds)


def ranked(outputs: Outputs, windows: Ints, mass: float, most: int) -> list[tuple[int, int, float]]:
    """The best spans of these windows of a question, as (begin, end, probability), best first.

    A span that two windows see counts by the higher of its scores there, as in ``best``.
    """
    found: dict[tuple[int, int], float] = {}
    for window in windows.tolist():
        spans = zip(outputs["begin"][window].tolist(), outputs["end"][window].tolist(), strict=True)
        for span, score in zip(spans, outputs["score"][window].tolist(), strict=True):
            if score > found.get(span, -np.inf):
                found[span] = score
    order = sorted(found.items(), key=lambda pair: -pair[1])  # stable: of equals, the first window's
    return [(*span, float(np.exp(score - mass))) for span, score in order[:most]]


def threshold(margin: Floats, answered: Floats, unanswered: Floats) -> float:
    """The margin above which no answer is the better answer, for the highest mean score.

    Args:
        margin: of each question, shape (questions,).
        answered: its score if its best span is given.
        unanswered: its score if no answer is given.

    Returns:
        Half-way between two margins, for what comes between them is not known; beyond all of them where the same
        answer is best for all.
    """
    order = np.argsort(margin, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])  # the first so many are answered
    edges = np.concatenate([[margin[order[0]] - 2.0], margin[order], [margin[order[-1]] + 2.0]])
    distinct = np.flatnonzero(np.diff(edges) > 0)  # between equal margins there is no threshold
    chosen = distinct[np.argmax(gained[distinct])]
    return float((edges[chosen] + edges[chosen + 1]) / 2)


def span_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the answer's first and last token, their mean, shape (windows,).

    Among the tokens of the text and the one that stands for no answer: what pads does not matter.
    """
    if batch.targets is None:
        raise HftlError("loss: the questions have no answers")
    shut = batch.extras["begins"] < 0
    shut = shut.scatter(1, batch.extras["null"][:, None], False)
    both = (logits.float().masked_fill(shut, -torch.inf) for logits in (outputs.start_logits, outputs.end_logits))
    losses = [
        functional.cross_entropy(logits, target, reduction="none")
        for logits, target in zip(both, batch.targets.T, strict=True)
    ]
    return (losses[0] + losses[1]) / 2
