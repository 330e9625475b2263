"""Scores of recordings with any number of labels beside those that every task has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hftl import metrics
from hftl.data.labels import read_targets
from hftl.records import BY_LABEL
from hftl.tasks._classification import sigmoid
from hftl.tasks.base import Outputs, Settings

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.sampling import Ids


def scores_of_calls(
    windows: Outputs, recordings: Outputs, dataset: Dataset, recording: Ids, settings: Settings
) -> dict[str, float]:
    """False alarms by the hour where some rows have no label, and each label's average precision where rows have it.

    Args:
        windows: logits of each window of the recordings.
        recordings: logits of each recording.
        dataset: the rows, a recording each.
        recording: which of them each window is of, shape (windows,).
        settings: with ``thresholds``, and ``id2label`` where single labels are to be scored.
    """
    found: dict[str, float] = {}
    labels = read_targets(dataset)
    calm = np.flatnonzero(~labels.any(axis=1))
    if len(calm):
        given = sigmoid(windows["logits"][np.isin(recording, calm)]) >= settings["thresholds"]
        seconds = float(np.take(dataset["seconds"][:], calm).sum())
        found["false_alarms_per_hour"] = metrics.false_alarms_per_hour(np.asarray(given), seconds)
    each = metrics.average_precisions(sigmoid(recordings["logits"]), labels)
    names = settings.get("id2label", {})
    return found | {f"{BY_LABEL}{names[index]}": float(each[index]) for index in names if not np.isnan(each[index])}
