"""Metrics by name: two that work offline, and whatever `evaluate` finds in a file, a folder or on the Hub."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from hftl.errors import HftlError, one_line


class _Offline(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric over class ids that lives in memory: no script to fetch, nothing written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _build_data_dir(self) -> str:
        # evaluate makes this folder for its arrow files even where it keeps them in memory: litter at best, an error
        # where the home directory cannot be written.
        return super()._build_data_dir() if not self.keep_in_memory else ""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions, references: class ids (int64), one a row.",
            features=datasets.Features({"predictions": ids, "references": ids}),
        )


class Accuracy(_Offline):
    """The share of the rows that are predicted right, 0 to 1."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(_Offline):
    """The mean of the labels' F1, 0 to 1, over the labels that occur in references or predictions."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


OFFLINE: dict[str, type[_Offline]] = {"accuracy": Accuracy, "macro_f1": MacroF1}


def load(name_or_path: str) -> evaluate.Metric:
    """A fresh metric: ours by name, else what ``evaluate.load`` makes of a local file, a folder or a Hub name.

    Metrics of `evaluate` are code, and loading one runs it.

    Raises:
        HftlError: there is no such metric, the Hub cannot be reached, or its code does not load.
    """
    if name_or_path in OFFLINE:
        return OFFLINE[name_or_path]()
    try:
        return evaluate.load(name_or_path, keep_in_memory=True)
    except Exception as error:  # whatever the metric's own code raises, beside evaluate's many
        raise HftlError(
            f"metric {name_or_path!r}: {one_line(error)}; name {' or '.join(OFFLINE)}, or a local file that defines "
            "an evaluate.Metric (names on the Hub need a network)"
        ) from error


_loaded = functools.cache(load)  # one fetch and one import a process; compute() empties a metric


def score(names: Sequence[str], predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Every number that the named metrics give for these rows.

    Args:
        names: As for ``load``.
        predictions: Class ids (N,).
        references: Class ids (N,).

    Returns:
        A metric's only number under the metric's name, one of several under ``name/key``. What is not a number, such
        as a confusion matrix, is left out.

    Raises:
        HftlError: a metric does not load, does not fit these rows, or gives no number at all.
    """
    return {key: value for name in names for key, value in _score_one(name, predictions, references).items()}


def _score_one(name: str, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    metric = _loaded(name)
    try:
        result = metric.compute(predictions=predictions, references=references)
    except (TypeError, ValueError) as error:
        raise HftlError(
            f"metric {name!r}: {one_line(error)}; name one that compares class ids, such as macro_f1"
        ) from error
    numbers = _numbers(name, result)
    if not numbers:
        raise HftlError(f"metric {name!r}: it gives no number, only {', '.join(result)}; name one that does")
    return numbers


def _numbers(name: str, result: Mapping[str, Any]) -> dict[str, float]:
    return {
        name if len(result) == 1 else f"{name}/{key}": float(value)
        for key, value in result.items()
        if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)
    }
