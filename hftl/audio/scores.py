"""Scores of recordings with any number of labels beside those that every task has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hftl import metrics
from hftl.data.batches import Outputs, Settings
from hftl.data.labels import read_targets
from hftl.probabilities import sigmoid
from hftl.records import BY_LABEL

if TYPE_CHECKING:
    import numpy.typing as npt
    from datasets import Dataset

    from hftl.data.sampling import Ids


def false_alarms(given: npt.NDArray[np.bool_], dataset: Dataset, recording: Ids, hop: float) -> dict[str, float]:
    """``false_alarms_per_hour``, where some recordings have no label.

    Args:
        given: which label is given to which window, shape (windows, labels).
        dataset: the recordings.
        recording: which of them each window is of, shape (windows,).
        hop: seconds from one window to the next, so that neither silence behind a short recording nor overlap counts.
    """
    calm = np.asarray(~read_targets(dataset).any(axis=1))[recording]
    if not calm.any():
        return {}
    return {"false_alarms_per_hour": false_alarms_per_hour(given[calm], hop * int(calm.sum()))}


def average_precisions_by_label(outputs: Outputs, dataset: Dataset, settings: Settings) -> dict[str, float]:
    """Each label's average precision, where recordings have it and ``settings`` name it (``id2label``).

    Args:
        outputs: logits of the recordings.
        dataset: the recordings.
        settings: those of the model.
    """
    each = metrics.average_precisions(sigmoid(outputs["logits"]), read_targets(dataset))
    names = settings.get("id2label", {})
    return {f"{BY_LABEL}{names[index]}": float(each[index]) for index in names if not np.isnan(each[index])}


def false_alarms_per_hour(given: np.ndarray, seconds: float) -> float:
    """Labels given where there is nothing to be found, by the hour.

    Args:
        given: which label is given to which window of these recordings, bool of shape (windows, labels).
        seconds: how much of these recordings the windows are, without what two of them share.
    """
    return float(3600 * given.sum() / seconds)
