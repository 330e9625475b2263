"""Decoding spans: the best of all of them, and probabilities, against counting them one by one."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hftl.text.spans import best, by_question, candidates, ranked, threshold

MOST, LONGEST = 5, 4


def window(seed: int, positions: int = 12, context: slice = slice(4, 11)) -> dict[str, torch.Tensor]:
    """Logits of one window, and its places: words of two letters with a space in between."""
    drawn = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 1, positions, generator=drawn) * 3
    begins = torch.full((1, positions), -1)
    begins[0, context] = 3 * torch.arange(len(range(*context.indices(positions))))
    ends = torch.where(begins >= 0, begins + 2, -1)
    return {"start": start, "end": end, "begins": begins, "ends": ends, "null": torch.tensor([0])}


def found_in(one: dict[str, torch.Tensor], most: int = MOST, longest: int = LONGEST) -> dict[str, torch.Tensor]:
    places = {name: one[name] for name in ("begins", "ends", "null")}
    return candidates(one["start"], one["end"], places, most, longest)


def every_span(one: dict[str, torch.Tensor], longest: int = LONGEST) -> list[tuple[float, int, int]]:
    """All spans of a window, the best first, counted one by one."""
    places = [place for place, begin in enumerate(one["begins"][0].tolist()) if begin >= 0]
    spans = [
        ((one["start"][0, i] + one["end"][0, j]).item(), int(one["begins"][0, i]), int(one["ends"][0, j]))
        for i, j in itertools.product(places, places)
        if i <= j < i + longest
    ]
    return sorted(spans, reverse=True)


@given(seed=st.integers(0, 10_000), longest=st.integers(1, 14), most=st.integers(1, 40))
def test_candidates_are_the_best_of_all_spans(seed: int, longest: int, most: int) -> None:
    one = window(seed)
    found, all_spans = found_in(one, most, longest), every_span(one, longest)
    assert found["score"].shape == (1, most)
    kept = [
        (score, begin, end)
        for score, begin, end in zip(*(found[name][0].tolist() for name in ("score", "begin", "end")), strict=True)
        if score > -np.inf
    ]
    assert len(kept) == min(most, len(all_spans))
    for ours, theirs in zip(kept, all_spans, strict=False):
        assert ours == pytest.approx(theirs)
    assert found["null"].item() == pytest.approx((one["start"][0, 0] + one["end"][0, 0]).item())
    total = np.log(sum(np.exp(score) for score, _, _ in all_spans))
    assert found["mass"].item() == pytest.approx(total, abs=1e-4)


def test_windows_of_a_batch_do_not_see_each_other_or_the_padding() -> None:
    windows = [window(seed, 12 + 3 * seed, slice(4, 11 + seed)) for seed in range(3)]
    longest = max(one["start"].shape[1] for one in windows)
    fills = {"start": 50.0, "end": 50.0, "begins": -1, "ends": -1}
    batch = {
        name: torch.cat(
            [torch.nn.functional.pad(one[name], (0, longest - one[name].shape[1]), value=fill) for one in windows]
        )
        for name, fill in fills.items()
    }
    together = found_in({**batch, "null": torch.zeros(3, dtype=torch.int64)})
    for number, one in enumerate(windows):
        for name, tensor in found_in(one).items():
            torch.testing.assert_close(together[name][number], tensor[0])


def test_a_window_without_text_has_no_span() -> None:
    one = window(0, context=slice(4, 4))
    found = found_in(one)
    assert (found["score"] == -np.inf).all()
    assert found["mass"].item() == -np.inf
    assert not any(tensor.isnan().any() for tensor in found.values())


def test_the_best_of_a_question_is_the_best_of_its_windows() -> None:
    windows, of = [window(seed) for seed in range(5)], np.array([1, 0, 1, 1, 0])
    found = [{name: tensor.numpy() for name, tensor in found_in(one).items()} for one in windows]
    outputs = {name: np.concatenate([each[name] for each in found]) for name in found[0]} | {"question": of}
    overall = best(outputs, 2)
    for question in (0, 1):
        own = [number for number in range(5) if of[number] == question]
        top = max(every_span(windows[number])[0] for number in own)
        got = (overall.score[question], overall.begin[question], overall.end[question])
        assert got == pytest.approx(top)
        null = min(found[number]["null"][0] for number in own)
        assert overall.null[question] == pytest.approx(null)
        everything = [score for number in own for score, _, _ in every_span(windows[number])] + [null]
        assert overall.mass[question] == pytest.approx(np.log(np.exp(everything).sum()), abs=1e-4)
        assert by_question(outputs, 2)[question].tolist() == own
        spans = ranked(outputs, np.array(own), overall.mass[question], 3)
        assert spans[0][:2] == pytest.approx(top[1:])
        assert [probability for *_, probability in spans] == sorted((p for *_, p in spans), reverse=True)


def test_all_probabilities_of_a_question_are_one() -> None:
    one = window(3)
    outputs = {name: tensor.numpy() for name, tensor in found_in(one, most=100).items()} | {"question": np.array([0])}
    overall = best(outputs, 1)
    spans = ranked(outputs, np.arange(1), overall.mass[0], 100)
    assert len(spans) == len(every_span(one))
    total = sum(probability for *_, probability in spans) + np.exp(overall.null[0] - overall.mass[0])
    assert total == pytest.approx(1, abs=1e-5)


@given(st.lists(st.tuples(st.integers(-4, 4), st.floats(0, 1), st.booleans()), min_size=1, max_size=12))
def test_no_threshold_is_better(rows: list[tuple[int, float, bool]]) -> None:
    margin = np.array([float(row[0]) for row in rows])
    answered = np.array([0.0 if empty else score for _, score, empty in rows])
    unanswered = np.array([float(empty) for *_, empty in rows])

    def gained(limit: float) -> float:
        return float(np.where(margin > limit, unanswered, answered).sum())

    chosen = threshold(margin, answered, unanswered)
    assert gained(chosen) == pytest.approx(max(gained(limit) for limit in np.arange(-6, 6, 0.5)))
