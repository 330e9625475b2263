"""Thresholds against trying every one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from hftl.tasks.parts.thresholds import FEW, best_thresholds, commonest_labels, tuned_thresholds


def f1(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    return float(f1_score(labels, probabilities >= threshold, zero_division=0))


def columns(values: list[float], positive: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(values)[:, None], np.array(positive)[:, None]


few_values = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.5000000000000001, 0.7, 1.0]) | st.floats(0, 1)


@given(st.lists(st.tuples(few_values, st.booleans()), min_size=1, max_size=12))
def test_no_threshold_is_better(rows):
    probabilities, labels = columns(*map(list, zip(*rows, strict=True)))
    found = best_thresholds(probabilities, labels)[0]
    values = probabilities[:, 0]
    tried = [f1(values, labels[:, 0], threshold) for threshold in {*values, 0.5} - {0.0}]
    assert f1(values, labels[:, 0], found) == pytest.approx(max(tried), abs=1e-12)
    assert 0 < found <= 1


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        ([0.9, 0.8, 0.3, 0.2], [True, True, True, False], 0.25),  # half way
        ([0.9, 0.8, 0.4, 0.2], [True, True, False, False], 0.5),  # as good as any from 0.4 to 0.8
        ([0.9, 0.8, 0.7, 0.6], [True, True, False, False], 0.75),
        ([0.4, 0.3, 0.2, 0.1], [True, False, False, True], 0.35),  # F1 of 2/3 also below 0.1, further from 0.5
        ([0.4, 0.2], [True, True], 0.1),
        ([0.9, 0.1], [False, False], 0.5),
        ([0.3, 0.3, 0.3], [True, False, False], 0.15),  # equal ones stay together
    ],
)
def test_cuts_by_hand(values, positive, expected):
    assert best_thresholds(*columns(values, positive))[0] == pytest.approx(expected)


def test_each_label_has_its_own():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 4)) < [0.5, 0.2, 0.1, 0.05]
    probabilities = np.clip(0.3 * labels + rng.random((200, 4)) * 0.5, 0, 1)
    found = best_thresholds(probabilities, labels)
    alone = [best_thresholds(probabilities[:, [label]], labels[:, [label]])[0] for label in range(4)]
    np.testing.assert_array_equal(found, alone)
    for label in range(4):
        assert f1(probabilities[:, label], labels[:, label], found[label]) >= max(
            f1(probabilities[:, label], labels[:, label], threshold) for threshold in np.linspace(0.01, 1, 100)
        )


def test_labels_with_few_rows_share_a_threshold():
    labels = np.zeros((50, 4), dtype=bool)
    labels[:20, 0], labels[:3, 1], labels[10:13, 2] = True, True, True
    probabilities = np.where(labels, [0.4, 0.3, 0.2, 0.0], 0.1)
    found = tuned_thresholds(probabilities, labels)
    assert found[0] == pytest.approx(0.25)
    assert found[1:].tolist() == [pytest.approx(0.15)] * 3  # three rows and three more make six
    alone = tuned_thresholds(probabilities[:, :2], labels[:, :2])
    assert alone.tolist() == [pytest.approx(0.25), 0.5]
    assert labels[:, 1].sum() < FEW


def test_the_commonest_labels_are_the_best_constant_answer():
    rng = np.random.default_rng(0)
    for shares in ([0.6, 0.5, 0.1, 0.01], [0.05] * 4, [0.9, 0.01, 0.01, 0.01]):
        labels = rng.random((300, 4)) < shares
        sets = np.array(np.meshgrid(*[[False, True]] * 4)).reshape(4, -1).T
        scores = [f1_score(labels, np.tile(given, (300, 1)), average="micro", zero_division=0) for given in sets]
        chosen = np.tile(commonest_labels(labels), (300, 1))
        assert f1_score(labels, chosen, average="micro", zero_division=0) == pytest.approx(max(scores))
