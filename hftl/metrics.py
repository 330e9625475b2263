"""Metrics by name: a few that work offline, and whatever `evaluate` finds in a file, a folder or on the Hub."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from hftl.errors import HftlError, one_line

MULTI_LABEL = "multilabel"
"""The configuration of a metric that compares rows with any number of labels (so named in `evaluate`'s own f1)."""


class _Offline(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric over labels that lives in memory: no script to fetch, nothing written.

    Predictions and references are class ids, one a row; configured as ``multilabel``, multi-hot rows.
    """

    inputs = "predictions, references: class ids (int64), or multi-hot lists (bool), one a row."

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _build_data_dir(self) -> str:
        # evaluate makes this folder for its arrow files even where it keeps them in memory: litter at best, an error
        # where the home directory cannot be written.
        return super()._build_data_dir() if not self.keep_in_memory else ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description=self.inputs,
            features=datasets.Features(self._inputs()),
        )

    def _inputs(self) -> dict[str, Any]:
        multi_hot = self.config_name == MULTI_LABEL
        kind = datasets.List(datasets.Value("bool")) if multi_hot else datasets.Value("int64")
        return {"predictions": kind, "references": kind}


class Accuracy(_Offline):
    """The share of the rows that are predicted right, 0 to 1; of several labels, all of them."""

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(np.asarray(references), np.asarray(predictions)))}


class MacroF1(_Offline):
    """The mean of the labels' F1, 0 to 1, over the labels that occur in references or predictions."""

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        if self.config_name != MULTI_LABEL:
            return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}
        f1 = _f1(np.asarray(predictions), np.asarray(references))
        return {"macro_f1": 0.0 if np.isnan(f1).all() else float(np.nanmean(f1))}


class MicroF1(_Offline):
    """F1 over all pairs of a row and a label, 0 to 1."""

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        if self.config_name != MULTI_LABEL:
            return {"micro_f1": float(f1_score(references, predictions, average="micro", zero_division=0))}
        f1 = _f1(np.asarray(predictions).reshape(-1, 1), np.asarray(references).reshape(-1, 1))
        return {"micro_f1": float(np.nan_to_num(f1[0]))}


def _f1(given: np.ndarray, right: np.ndarray) -> np.ndarray:
    """F1 of each column, NaN where neither has it; by hand, for sklearn takes a lone column for single labels."""
    both, either = (given & right).sum(axis=0), given.sum(axis=0) + right.sum(axis=0)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), np.nan)


class _OfOrder(_Offline):
    """A metric of the order of the rows by each label's probability: no threshold is in it."""

    inputs = "prediction_scores: probabilities (lists of float64); references: multi-hot lists (bool), one a row."

    def _inputs(self) -> dict[str, Any]:
        lists = datasets.List
        return {"prediction_scores": lists(datasets.Value("float64")), "references": lists(datasets.Value("bool"))}


class MeanAveragePrecision(_OfOrder):
    """The mean of the labels' average precision, 0 to 1, over the labels that some row has; NaN where none has one.

    It looks at the order of the rows by each label's probability alone, so that no threshold is in it.
    """

    def _compute(self, prediction_scores: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return {"mAP": _mean(average_precisions(np.asarray(prediction_scores), np.asarray(references)))}


class MacroROCAUC(_OfOrder):
    """The mean of the labels' area under the ROC curve, 0 to 1, as BirdCLEF 2024 and 2025 rank by.

    Labels that no row has, or all rows have, have none, and do not count; NaN where none does.
    """

    def _compute(self, prediction_scores: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        scores, right = np.asarray(prediction_scores), np.asarray(references)
        there = np.asarray(right.any(axis=0) & ~right.all(axis=0))
        return {"roc_auc": _mean(_by_label(roc_auc_score, scores, right, there))}


def average_precisions(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Average precision of each label, shape (labels,); NaN where no row has it.

    Args:
        scores: probabilities, shape (rows, labels).
        right: which row has which label, of the same shape.
    """
    return _by_label(average_precision_score, scores, right, np.asarray(right.any(axis=0)))


def _by_label(score: Any, scores: np.ndarray, right: np.ndarray, there: np.ndarray) -> np.ndarray:
    """``score`` of each label, NaN where it is not ``there``; all NaN where a probability is not finite."""
    found = np.full(right.shape[1], math.nan)
    for label in np.flatnonzero(there) if np.isfinite(scores).all() else ():
        found[label] = score(right[:, label], scores[:, label])
    return found


def _mean(values: np.ndarray) -> float:
    """Over those that are numbers; NaN where none is."""
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))


OFFLINE: dict[str, type[_Offline]] = {"accuracy": Accuracy, "macro_f1": MacroF1, "micro_f1": MicroF1}
OFFLINE_MULTI_LABEL: dict[str, type[_Offline]] = {"mAP": MeanAveragePrecision, "roc_auc": MacroROCAUC, **OFFLINE}


def load(name_or_path: str, multi_label: bool = False) -> evaluate.Metric:
    """A fresh metric: ours by name, else what ``evaluate.load`` makes of a local file, a folder or a Hub name.

    Metrics of `evaluate` are code, and loading one runs it. With ``multi_label``, one of ours compares multi-hot rows.

    Raises:
        HftlError: there is no such metric, the Hub cannot be reached, or its code does not load.
    """
    ours = OFFLINE_MULTI_LABEL if multi_label else OFFLINE
    if name_or_path in ours:
        return ours[name_or_path](config_name=MULTI_LABEL if multi_label else None)
    try:
        return evaluate.load(name_or_path, keep_in_memory=True)
    except Exception as error:  # whatever the metric's own code raises, beside evaluate's many
        raise HftlError(
            f"metric {name_or_path!r}: {one_line(error)}; name {' or '.join(ours)}, or a local file that defines "
            "an evaluate.Metric (names on the Hub need a network)"
        ) from error


_loaded = functools.cache(load)  # one fetch and one import a process; compute() empties a metric


def score(
    names: Sequence[str], predictions: np.ndarray, references: np.ndarray, probabilities: np.ndarray | None = None
) -> dict[str, float]:
    """Every number that the named metrics give for these rows.

    Args:
        names: As for ``load``.
        predictions: Class ids (N,); or multi-hot, bool (N, labels).
        references: Likewise.
        probabilities: Of each label (N, labels), where rows have any number; for metrics that ask for
            ``prediction_scores``.

    Returns:
        A metric's only number under the metric's name, one of several under ``name/key``. What is not a number, such
        as a confusion matrix, is left out.

    Raises:
        HftlError: a metric does not load, does not fit these rows, or gives no number at all.
    """
    rows = {"predictions": predictions, "references": references, "prediction_scores": probabilities}
    return {key: value for name in names for key, value in _score_one(name, rows).items()}


def _score_one(name: str, rows: Mapping[str, np.ndarray | None]) -> dict[str, float]:
    multi_label = rows["prediction_scores"] is not None
    metric = _loaded(name, multi_label)
    try:
        asked = metric.features[0] if isinstance(metric.features, list) else metric.features
        # All rows are here: ours need not go through the Arrow table by which evaluate collects them, at 15 ms each.
        compute = metric._compute if isinstance(metric, _Offline) else metric.compute
        result = compute(**{each: rows[each] for each in asked if rows.get(each) is not None})
    except (TypeError, ValueError) as error:
        compares = "rows of several labels" if multi_label else "class ids"
        raise HftlError(
            f"metric {name!r}: {one_line(error)}; name one that compares {compares}, such as macro_f1"
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
