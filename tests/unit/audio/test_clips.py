"""Windows of recordings: they cover all of each, and are joined as a plain loop joins them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftl.audio.clips import REST, cut, joined

seconds = st.floats(0.01, 100)
overlaps = st.floats(0, 0.9)


@given(st.lists(seconds, max_size=6), seconds, overlaps)
def test_windows_cover_each_recording_and_lie_within_it(durations: list[float], window: float, overlap: float) -> None:
    clips = cut(durations, window, overlap)
    assert clips.recording.tolist() == sorted(clips.recording.tolist())
    assert sorted(set(clips.recording.tolist())) == list(range(len(durations)))
    assert len(clips) == len(clips.recording) == len(clips.start)
    for recording, duration in enumerate(durations):
        starts = clips.start[clips.recording == recording]
        slack = 1e-6 * max(duration, window)
        assert starts[0] == 0
        assert (starts[-1] == 0) if duration <= window else (starts[-1] + window <= duration + slack)
        assert duration - (starts[-1] + window) <= REST * window + slack  # a rest that is too short to count
        hops = np.diff(starts)
        assert (hops > 0).all()
        assert (hops <= window * (1 - overlap) + slack).all()  # no gap, and no less overlap than asked for
        assert np.allclose(hops[:-1], window * (1 - overlap))  # the last one alone may come sooner


@pytest.mark.parametrize(
    ("duration", "overlap", "starts"),
    [
        (0.4, 0.0, [0.0]),
        (1.0, 0.0, [0.0]),
        (1.04, 0.0, [0.0]),
        (1.2, 0.0, [0.0, 0.2]),
        (2.0, 0.0, [0.0, 1.0]),
        (2.5, 0.0, [0.0, 1.0, 1.5]),
        (2.0, 0.5, [0.0, 0.5, 1.0]),
        (2.2, 0.5, [0.0, 0.5, 1.0, 1.2]),
    ],
)
def test_where_windows_of_a_second_begin(duration: float, overlap: float, starts: list[float]) -> None:
    np.testing.assert_allclose(cut([duration], 1.0, overlap).start, starts)


def test_no_recordings_have_no_windows() -> None:
    assert len(cut([], 1.0, 0.0)) == 0


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.sampled_from([(), (3,), (2, 2)]),
    st.sampled_from(["mean", "max"]),
    st.integers(0, 2**32 - 1),
)
def test_windows_are_joined_as_by_a_loop(counts: list[int], shape: tuple[int, ...], how: str, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(sum(counts), *shape))
    recording = np.repeat(np.arange(len(counts)), counts)
    expected, first = [], 0
    for count in counts:
        windows = values[first : first + count]
        expected.append(sum(windows) / count if how == "mean" else np.max(windows, axis=0))
        first += count
    found = joined(values, recording, len(counts), how)
    assert found.shape == (len(counts), *shape)
    np.testing.assert_allclose(found, expected, atol=1e-12)
