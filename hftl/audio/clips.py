"""Recordings cut into windows of time that a model can take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hftl.data.sampling import Ids

REST = 0.05
"""A rest of a recording that is shorter than this part of a window gets none of its own."""


@dataclass(frozen=True)
class Clips:
    """Windows of recordings, in their order; each array of shape (windows,)."""

    recording: Ids
    """Which recording each is of."""
    start: npt.NDArray[np.float64]
    """Seconds from its beginning."""

    def __len__(self) -> int:
        return len(self.start)


def cut(durations: Sequence[float], seconds: float, overlap: float) -> Clips:
    """The windows that cover recordings of these durations.

    One begins every ``seconds * (1 - overlap)``. The last ends with its recording, so that no part counts as silence;
    a recording that is shorter than a window is one window.

    Args:
        durations: of the recordings, in seconds.
        seconds: of a window.
        overlap: the part of a window that the next one has as well, at least 0 and below 1.
    """
    starts = [starts_in(duration, seconds, overlap) for duration in durations]
    recording = np.repeat(np.arange(len(starts)), [len(each) for each in starts])
    return Clips(recording, np.concatenate([np.empty(0), *starts]))


def starts_in(duration: float, seconds: float, overlap: float, shifted: bool = True) -> npt.NDArray[np.float64]:
    """Where the windows of one recording begin, in seconds, ascending. See ``cut``.

    Args:
        duration: of the recording, in seconds.
        seconds: of a window.
        overlap: the part of a window that the next one has as well.
        shifted: whether the last window ends with the recording. If not, it begins at a multiple of its length, as all
            do without overlap, and silence follows the end.
    """
    hop, room = seconds * (1 - overlap), max(0.0, duration - seconds)
    starts = hop * np.arange(math.floor(room / hop + 1e-9) + 1.0)
    last = room if shifted else seconds * math.floor(duration / seconds + 1e-9)
    rest = room - starts[-1] if shifted else duration - last
    return np.append(starts, last) if rest > REST * seconds and last > starts[-1] else np.asarray(starts)


def joined(values: npt.NDArray[np.float64], recording: Ids, recordings: int, how: str) -> npt.NDArray[np.float64]:
    """The mean or the highest (``how`` is "mean" or "max") of each recording's windows, shape (recordings, …).

    Args:
        values: of each window, shape (windows, …).
        recording: which recording each is of, ascending, none left out; shape (windows,).
        recordings: how many there are.
        how: "mean" or "max".
    """
    first = np.searchsorted(recording, np.arange(recordings))
    if how == "max":
        return np.asarray(np.maximum.reduceat(values, first, axis=0))
    counts = np.bincount(recording, minlength=recordings).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(np.add.reduceat(values, first, axis=0) / counts)
