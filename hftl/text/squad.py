"""SQuAD: the form of its files, and its scores."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hftl.errors import HftlError, one_line

PUNCTUATION = frozenset(string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def squad_rows(document: Any, path: Path) -> list[Any] | None:
    """The questions of a document in the form of SQuAD, a row each; None where it is of another form.

    Raises:
        HftlError: it is of that form, and not whole; the ``path`` is named.
    """
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        return None
    try:
        return [
            {"title": article.get("title"), "context": paragraph["context"], **question}
            for article in document["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise HftlError(
            f"{path}: not as SQuAD has it: data, paragraphs (context), qas (question, answers); {one_line(error)} is "
            "missing or of another kind"
        ) from None


def squad_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of answers as SQuAD defines them, 0 to 1, each question by the gold answer that fits best.

    Answers are compared in lower case, without punctuation, articles and superfluous white space; F1 is that of their
    words. A question without gold answers has none: only an empty prediction is right. Where there are such,
    ``has_answer_f1``, ``has_answer_exact_match`` (of the questions that have one) and ``no_answer_accuracy`` (of the
    others) are given as well.

    Source: the evaluation scripts of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018); theirs are percentages.
    """
    each = np.array([compare_answers(*pair) for pair in zip(predictions, references, strict=True)]).reshape(-1, 2)
    has = np.array([len(gold) > 0 for gold in references], dtype=bool)
    if not len(each):
        return {"f1": math.nan, "exact_match": math.nan}
    f1, exact = map(float, each.mean(axis=0))
    found = {"f1": f1, "exact_match": exact}
    if not has.all():
        found["no_answer_accuracy"] = float(each[~has, 1].mean())
        if has.any():
            found["has_answer_f1"], found["has_answer_exact_match"] = map(float, each[has].mean(axis=0))
    return found


def compare_answers(prediction: str, gold: Sequence[str]) -> tuple[float, float]:
    """F1 and exact match (1 or 0) of an answer with that of the gold answers it fits best; none: it should be empty."""
    wanted = [words for answer in gold if (words := normalised_answer(answer))] or [""]
    given = normalised_answer(prediction)
    return max(_word_f1(given, words) for words in wanted), float(given in wanted)


def normalised_answer(text: str) -> str:
    """An answer as SQuAD compares it: lower case, no punctuation (ASCII), no articles, single spaces."""
    plain = "".join(letter for letter in text.lower() if letter not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def _word_f1(given: str, wanted: str) -> float:
    """Of two normalised answers; of an empty one, whether both are."""
    ours, theirs = given.split(), wanted.split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))
