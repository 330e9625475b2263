"""Which evaluation is kept: the latest that is not surely worse."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftl.certainty import PARTS, error_of, error_of_difference, parts_of
from hftl.choice import ERRORS, Choice
from hftl.records import Evaluated


def worth(scores: dict[str, float]) -> tuple[float, float]:
    """As the trainer has it: NaN is worth least."""
    score, loss = scores["accuracy"], -scores["loss"]
    return -math.inf if math.isnan(score) else score, -math.inf if math.isnan(loss) else loss


def right(*rows: bool, loss: float = 1.0, epoch: int = 0) -> Evaluated:
    """An evaluation that was right about these rows."""
    correct = np.array(rows, dtype=float)
    scores = {"accuracy": float(correct.mean()), "loss": loss}
    return Evaluated(0, epoch, "validation", scores, False, 0.0, parts=parts_of(correct))


def wrong_about(rows: int, wrong: int, first: int = 0, **more: Any) -> Evaluated:
    """Right about all of so many rows, but for some that follow each other."""
    return right(*[not first <= row < first + wrong for row in range(rows)], **more)


def taken(*evaluations: Evaluated) -> tuple[Choice, list[bool]]:
    choice = Choice(worth)
    return choice, [choice.take(each) for each in evaluations]


# -- the rule --------------------------------------------------------------------------------------------------------


def test_what_is_better_is_kept() -> None:
    worse, better = wrong_about(20, 9), wrong_about(20, 4)
    choice, kept = taken(worse, better)
    assert kept == [True, True]
    assert choice.top is choice.kept is better


def test_a_few_rows_do_not_overrule_what_comes_later() -> None:
    """One row of 20 worse: the error of the difference is that of one row as well, and there may be two of it."""
    best, later = wrong_about(20, 3), wrong_about(20, 4)
    choice, kept = taken(best, later)
    assert kept == [True, True]
    assert choice.kept is later
    assert choice.top is best


def test_what_is_worse_by_more_than_the_error_is_not_kept() -> None:
    best, later = wrong_about(20, 3), wrong_about(20, 9)
    behind = best.scores["accuracy"] - later.scores["accuracy"]
    assert behind > ERRORS * error_of_difference(best.parts, later.parts) > 0
    choice, kept = taken(best, later)
    assert kept == [True, False]
    assert choice.kept is best


@pytest.mark.parametrize(("rows", "kept"), [(20, True), (4000, False)])
def test_the_same_shares_decide_where_the_rows_are_many(rows: int, kept: bool) -> None:
    """Both are wrong about rows of their own: 15 and 20 % of all."""
    best, later = wrong_about(rows, rows * 3 // 20), wrong_about(rows, rows // 5, first=rows // 2)
    choice, taken_now = taken(best, later)
    assert taken_now == [True, kept]
    assert choice.kept is (later if kept else best)


def test_the_rows_that_both_are_right_about_count_for_nothing() -> None:
    """Five of 40 rows more that are wrong: sure where the others are the same, chance where they are not."""
    best, nested, other = wrong_about(40, 5), wrong_about(40, 10), wrong_about(40, 10, first=20)
    assert error_of_difference(best.parts, nested.parts) < error_of_difference(best.parts, other.parts)


def test_the_latest_of_equals_is_compared_with_the_best_and_not_with_what_is_kept() -> None:
    """Else a run could go down by an error after each epoch."""
    steps = [wrong_about(20, wrong) for wrong in (3, 4, 8)]
    assert steps[1].scores["accuracy"] - steps[2].scores["accuracy"] == pytest.approx(0.2)
    choice, kept = taken(*steps)
    assert kept == [True, True, False]
    assert choice.kept is steps[1]
    assert choice.top is steps[0]


def test_equal_scores_are_told_apart_by_the_loss_but_the_later_is_kept_all_the_same() -> None:
    first, lower, higher = (wrong_about(20, 3, loss=loss) for loss in (1.0, 0.5, 0.7))
    choice, kept = taken(first, lower, higher)
    assert kept == [True, True, True]
    assert choice.top is lower
    assert choice.kept is higher


def test_without_parts_that_can_be_compared_the_best_is_kept_and_the_latest_of_equals() -> None:
    best = Evaluated(0, 0, "validation", {"accuracy": 0.8, "loss": 1.0}, False, 0.0)
    worse = Evaluated(0, 1, "validation", {"accuracy": 0.79, "loss": 1.0}, False, 0.0)
    equal = Evaluated(0, 2, "validation", {"accuracy": 0.8, "loss": 2.0}, False, 0.0)
    choice, kept = taken(best, worse, equal)
    assert kept == [True, False, True]
    assert choice.kept is equal


# -- NaN, waiting, state ---------------------------------------------------------------------------------------------


def nan() -> Evaluated:
    return Evaluated(0, 0, "validation", {"accuracy": math.nan, "loss": math.nan}, False, 0.0, parts=[1.0, 0.0, 1.0])


def test_no_number_is_never_better_and_is_only_kept_where_there_is_nothing_else() -> None:
    good = right(True, False, True)
    choice, kept = taken(nan(), nan(), good, nan())
    assert kept == [True, False, True, False]
    assert choice.kept is choice.top is good


def test_waiting_counts_evaluations_since_the_best_whether_they_are_kept_or_not() -> None:
    choice, waiting = Choice(worth), []
    for wrong in (5, 6, 12, 4, 4, 5):
        choice.take(wrong_about(20, wrong))
        waiting.append(choice.waiting)
    assert waiting == [0, 1, 2, 0, 1, 2]


def test_the_state_is_plain_data() -> None:
    choice = Choice(worth)
    assert choice.state() == {"top": None, "kept": None, "waiting": 0}
    choice.take(wrong_about(20, 3, epoch=4))
    choice.take(wrong_about(20, 4, epoch=5))
    state = json.loads(json.dumps(choice.state()))
    assert state == choice.state()
    assert (state["top"]["epoch"], state["kept"]["epoch"], state["waiting"]) == (4, 5, 1)
    assert state["kept"]["scores"]["accuracy"] == 0.8


@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=8))
def test_what_is_kept_is_never_behind_the_best_by_more_than_the_error(rows: list[list[bool]]) -> None:
    choice, seen = Choice(worth), []
    for number, each in enumerate(rows):
        new = right(*each, epoch=number)
        seen.append(new)
        assert choice.take(new) == (choice.kept is new)
        assert choice.kept is not None
        assert choice.top is not None
        best = max(each.scores["accuracy"] for each in seen)
        assert choice.top.scores["accuracy"] == best
        allowed = ERRORS * error_of_difference(choice.kept.parts, choice.top.parts)
        assert best - choice.kept.scores["accuracy"] <= allowed
        later = [each for each in seen if each.epoch is not None and each.epoch > (choice.kept.epoch or 0)]
        behind = [best - each.scores["accuracy"] for each in later]
        errors = [error_of_difference(each.parts, choice.top.parts) for each in later]
        assert all(lost > ERRORS * error for lost, error in zip(behind, errors, strict=True))


# -- certainty -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(0, 10_000))
def test_parts_are_means_of_parts_of_the_rows_that_hold_each_of_them_once(rows: int, seed: int) -> None:
    correct = np.random.default_rng(seed).random(rows)
    parts = parts_of(correct)
    assert len(parts) == min(PARTS, rows)
    sizes = [len(range(part, rows, PARTS)) for part in range(len(parts))]
    assert np.dot(parts, sizes) == pytest.approx(correct.sum())
    assert parts == parts_of(correct)


def test_a_row_is_in_the_same_part_of_every_evaluation() -> None:
    one, other = np.zeros(200), np.zeros(200)
    one[7] = other[7] = other[9] = 1.0
    first, second = np.array(parts_of(one)), np.array(parts_of(other))
    assert (second >= first).all()
    assert int((first > 0).sum()) == 1


def test_the_error_is_that_of_a_mean_over_rows() -> None:
    rng = np.random.default_rng(0)
    correct = (rng.random(4000) < 0.8).astype(float)
    known = correct.std() / math.sqrt(len(correct))
    assert error_of(parts_of(correct)) == pytest.approx(known, rel=0.3)  # of 40 parts, to a tenth or so
    assert error_of(parts_of(correct[:1])) is None
    assert error_of([]) is None


def test_the_error_of_a_difference_is_that_of_the_rows_that_differ() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(4000) < 0.8).astype(float)
    other = one.copy()
    other[:200] = 1 - other[:200]
    known = (one - other).std() / math.sqrt(len(one))
    assert error_of_difference(parts_of(one), parts_of(other)) == pytest.approx(known, rel=0.3)
    assert error_of_difference(parts_of(one), parts_of(one)) == 0.0
    assert error_of_difference(parts_of(one), []) == 0.0
    assert error_of_difference([1.0], [0.0]) == 0.0
