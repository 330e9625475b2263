from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hftl.data.sampling import even_frequencies, quotas, rarest, spare, stratified

labels_of = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(lambda rows: np.array(rows, dtype=np.int64))
quick = settings(max_examples=60, deadline=None)


@quick
@given(labels=labels_of, size=st.integers(1, 130), seed=st.integers(0, 5))
def test_a_sample_is_sorted_rows_of_the_right_number(labels, size, seed):
    rows = stratified(labels, size, seed)
    assert len(rows) == min(size, len(labels))
    assert (np.diff(rows) > 0).all()
    assert rows.min() >= 0
    assert rows.max() < len(labels)
    assert (stratified(labels, size, seed) == rows).all()


@quick
@given(labels=labels_of, size=st.integers(1, 130), seed=st.integers(0, 5))
def test_every_class_is_there_where_size_allows(labels, size, seed):
    classes = set(labels.tolist())
    if size >= len(classes):
        assert set(labels[stratified(labels, size, seed)].tolist()) == classes


@quick
@given(labels=labels_of, size=st.integers(1, 130))
def test_classes_keep_their_proportions_but_for_the_one_row_each_must_have(labels, size):
    counts = np.bincount(labels, minlength=7)
    taken = np.bincount(labels[stratified(labels, size, 0)], minlength=7)
    exact = counts * min(size, len(labels)) / len(labels)
    if (exact[counts > 0] >= 1).all():
        assert (np.abs(taken - exact) < 1).all()


@quick
@given(labels=labels_of, size=st.integers(1, 130), seed=st.integers(0, 5))
def test_leave_one_leaves_one_of_every_class(labels, size, seed):
    rest = np.delete(labels, stratified(labels, size, seed, leave_one=True))
    assert set(rest.tolist()) == set(labels.tolist())


def test_known_sample_is_the_same_on_every_machine():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    assert stratified(labels, 5, seed=7).tolist() == [0, 1, 3, 8, 9]
    assert stratified(labels, 5, seed=8).tolist() != [0, 1, 3, 8, 9]


def test_another_seed_takes_other_rows_and_the_same_numbers():
    labels = np.repeat(np.arange(4), 25)
    first, second = stratified(labels, 20, 0), stratified(labels, 20, 1)
    assert first.tolist() != second.tolist()
    assert (np.bincount(labels[first]) == np.bincount(labels[second])).all()


def test_quotas_by_largest_remainder_ties_to_the_first():
    assert quotas(np.array([3, 3, 3]), 4, np.array([3, 3, 3])).tolist() == [2, 1, 1]
    assert quotas(np.array([90, 9, 1]), 10, np.array([90, 9, 1])).tolist() == [8, 1, 1]
    assert quotas(np.array([2, 2]), 3, np.array([1, 1])).tolist() == [1, 1]


def test_a_thousand_classes_are_quick():
    labels = np.repeat(np.arange(1000), 60)
    assert (np.bincount(labels[stratified(labels, 1500, 0)]) >= 1).all()


HAS = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=bool)


def test_the_stratum_is_the_rarest_label():
    assert rarest(HAS).tolist() == [1, 0, 2, -1, 1]  # of 1 and 2, both twice, the first


multi_hot = st.integers(1, 4).flatmap(
    lambda labels: st.lists(st.lists(st.booleans(), min_size=labels, max_size=labels), min_size=1, max_size=12)
)


@given(multi_hot, st.data())
def test_what_can_be_spared_leaves_every_label_a_row(rows, data):
    has = np.array(rows)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(has) - 1), unique=True)), dtype=np.int64)
    spared = spare(has, chosen)
    assert set(spared.tolist()) <= set(chosen.tolist())
    assert (np.delete(has, spared, axis=0).any(axis=0) == has.any(axis=0)).all()
    if (np.delete(has, chosen, axis=0).any(axis=0) == has.any(axis=0)).all():
        assert spared.tolist() == chosen.tolist()  # nothing stays behind without need


def test_even_frequencies_make_all_labels_equally_likely():
    labels = np.array([0, 0, 0, 2, 0])
    assert even_frequencies(labels).tolist() == [0.25, 0.25, 0.25, 1, 0.25]
    assert even_frequencies(HAS).tolist() == [1 / 2, 1 / 4, 1 / 2, 1, 1 / 2]
