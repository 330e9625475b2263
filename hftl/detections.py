"""What was heard in which part of a long recording: windows, detections, and rows of a submission."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOUCHING = 1e-6
"""Seconds by which two windows that follow each other may miss each other, for their times are floats."""


@dataclass(frozen=True)
class Detection:
    """One label, heard without a break."""

    recording: str
    start: float
    """Seconds from its beginning."""
    end: float
    label: str
    score: float
    """The highest of its windows' probabilities."""


@dataclass(frozen=True)
class Heard:
    """The windows of one recording."""

    recording: str
    """Its path, where it has one."""
    seconds: float
    """How much of it was heard."""
    window: float
    """Seconds of a window."""
    labels: tuple[str, ...]
    starts: npt.NDArray[np.float64]
    """Where the windows begin, in seconds, ascending; shape (windows,)."""
    probabilities: npt.NDArray[np.float64]
    """Shape (windows, labels)."""
    predicted: npt.NDArray[np.bool_]
    """Which labels are the answer, shape (windows, labels)."""
    overview: Any = None
    """All of it, coarsely, for a picture; None where it was not asked for."""

    def detections(self, ignore: Collection[str] = ()) -> list[Detection]:
        """Windows with one label that follow each other or overlap are one detection. By their beginning.

        Args:
            ignore: labels that are not told.
        """
        found = [
            Detection(
                self.recording,
                float(self.starts[first]),
                min(float(self.starts[last]) + self.window, self.seconds),
                label,
                float(self.probabilities[first : last + 1, column][self.predicted[first : last + 1, column]].max()),
            )
            for column, label in enumerate(self.labels)
            if label not in ignore
            for first, last in self._stretches(column)
        ]
        return sorted(found, key=lambda each: (each.start, -each.score))

    def _stretches(self, column: int) -> Iterator[tuple[int, int]]:
        """The first and the last window of each stretch that has the label."""
        windows = np.flatnonzero(self.predicted[:, column])
        if len(windows):
            breaks = np.flatnonzero(np.diff(self.starts[windows]) > self.window + TOUCHING)
            yield from zip(
                windows[np.append(0, breaks + 1)].tolist(), windows[np.append(breaks, -1)].tolist(), strict=True
            )

    def rows(self) -> Iterator[tuple[str, list[float]]]:
        """Of each window that begins at a multiple of its length: a name, and the probabilities of all labels.

        The name is ``row_id`` as in BirdCLEF: the recording's without its ending, and the second at which the window
        ends.
        """
        stem = Path(self.recording).stem
        for start, row in zip(self.starts, self.probabilities, strict=True):
            times = start / self.window
            if abs(times - round(times)) < TOUCHING:
                yield f"{stem}_{np.format_float_positional(round(start + self.window, 3), trim='-')}", row.tolist()


def clock_text(seconds: float) -> str:
    """A place in a recording: ``0:05``, ``12:03.5``, ``1:02:03``."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    said = f"{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{minutes // 60}:{minutes % 60:02}:{said}" if minutes >= 60 else f"{minutes}:{said}"
