"""A long recording as one picture: its spectrogram, what was detected when, and how probable each label was."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftl.audio.overviews import RANGE
from hftl.detections import Detection, Heard, clock_text
from hftl.errors import HftlError
from hftl.report.curves import COLOURS, INK, QUIET
from hftl.wording import one_line, seconds_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 1200
"""Of a spectrogram, in a row of the picture."""
MOST_ROWS = 12
"""Of the picture."""
MOST_LABELS = len(COLOURS)
"""Labels that are drawn: those that were heard longest."""
WIDTH = 14.0
"""Inches."""
DPI = 110
LANE, SPECTROGRAM, PROBABILITIES, GAP, MARGIN = 0.2, 1.5, 0.7, 0.45, 0.55
"""Inches: of a label's detections, of what is below them, between the rows, above and below all."""
LEFT, RIGHT = 0.4, 0.35
"""Inches beside the axes, beside what the names of labels need."""
LEAST_LEFT = 0.8
"""Inches that the names of the axes need."""
NAME_LETTER, LETTER = 0.066, 0.058
"""Inches of a letter of these, and of one on a bar."""
MOST_LETTERS = 70
"""Of the recording's name in the title."""
TICKS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
"""Seconds from one mark on the axis to the next."""
HERTZ = (500, 1000, 2000, 4000, 8000, 16000)


def draw(heard: Heard, detections: Sequence[Detection], path: Path, ignore: Collection[str] = ()) -> None:
    """Write the picture as a png file.

    Args:
        heard: with an overview.
        detections: that are drawn.
        path: of the file.
        ignore: labels that are not drawn, not even where nothing was detected.

    Raises:
        HftlError: it cannot be written there.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks is a box in the picture
            picture(heard, detections, ignore).savefig(path, dpi=DPI)
    except OSError as error:
        raise HftlError(f"{path}: {(error.strerror or str(error)).lower()}; name another folder") from None


def picture(heard: Heard, detections: Sequence[Detection], ignore: Collection[str] = ()) -> Figure:
    """The figure that ``draw`` saves.

    Of each row, from above: a bar for each detection, one lane for a label; the spectrogram; the probabilities.
    """
    from matplotlib.figure import Figure

    shown = _shown(heard, detections, ignore)
    begins = np.arange(0, heard.seconds, heard.overview.row_seconds)
    lanes = LANE * max(1, len(shown))
    sizes = lanes, SPECTROGRAM, PROBABILITIES
    height = 2 * MARGIN + len(begins) * (sum(sizes) + GAP) - GAP
    left = max(LEAST_LEFT, LEFT + NAME_LETTER * max((len(_short(label)) for label in shown), default=0))
    figure = Figure(figsize=(WIDTH, height))
    figure.suptitle(
        _plain(_title(heard, detections, shown)),
        x=left / WIDTH,
        y=1 - 0.18 / height,
        ha="left",
        va="top",
        fontsize=11,
        color=INK,
    )
    pixels, limits = heard.overview.decibels(), _limits(heard)
    bottom: float = height - MARGIN
    for begin in begins:
        axes: list[Axes] = []
        for size in sizes:
            bottom -= size
            area = (left / WIDTH, bottom / height, (WIDTH - left - RIGHT) / WIDTH, size / height)
            axes.append(figure.add_axes(area))
        bottom -= GAP
        drawn = [each for each in detections if each.label in shown]
        _draw_bars(axes[0], shown, drawn, (begin, begin + heard.overview.row_seconds), WIDTH - left - RIGHT)
        _draw_spectrogram(axes[1], heard.overview, pixels, limits, begin)
        _draw_probabilities(axes[2], heard, shown)
        for each in axes:
            _time_axis(each, begin, heard.overview.row_seconds, named=each is axes[-1])
    return figure


def _shown(heard: Heard, detections: Sequence[Detection], ignore: Collection[str]) -> dict[str, str]:
    """The labels that are drawn, and their colours: those detected longest, or else the most probable."""
    lasted: dict[str, float] = {}
    for each in detections:
        lasted[each.label] = lasted.get(each.label, 0.0) + each.end - each.start
    names = sorted(lasted, key=lambda label: -lasted[label])[:MOST_LABELS]
    if not names:
        probable = (heard.labels[place] for place in np.argsort(-heard.probabilities.max(axis=0)))
        names = [label for label in probable if label not in ignore][:3]
    return dict(zip(sorted(names), COLOURS, strict=False))


def _title(heard: Heard, detections: Sequence[Detection], shown: Mapping[str, str]) -> str:
    many = "1 detection" if len(detections) == 1 else f"{len(detections):,} detections"
    parts = [_short(Path(heard.recording).name, MOST_LETTERS), seconds_text(heard.seconds), many]
    if more := len({each.label for each in detections} - set(shown)):
        parts.append(f"{more:,} more labels that were heard for less time")
    return " · ".join(parts)


def _draw_bars(
    axes: Axes,
    shown: Mapping[str, str],
    detections: Sequence[Detection],
    row: tuple[float, float],
    inches: float,
) -> None:
    """The bars in a row of the picture, from one second to another, so many inches wide."""
    for each in detections:
        start, end = max(each.start, row[0]), min(each.end, row[1])
        if start < end:
            lane, colour, room = (
                [*shown].index(each.label),
                shown[each.label],
                inches * (end - start) / (row[1] - row[0]),
            )
            axes.barh(lane, end - start, left=start, height=0.8, color=colour, alpha=0.35 + 0.65 * each.score)
            said = next((text for text in _texts(each) if LETTER * len(text) + 0.02 < room), "")
            place: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
            axes.text((start + end) / 2, lane, _plain(said), fontsize=7.5, color="white", **place)
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), [_plain(_short(label)) for label in shown], fontsize=8.5)
    for text, colour in zip(axes.get_yticklabels(), shown.values(), strict=True):
        text.set_color(colour)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_facecolor("none")


def _texts(detection: Detection) -> Iterator[str]:
    """What a bar says, the longest first."""
    score = f"{detection.score:.2f}"
    yield f"{_short(detection.label)} {score}"
    yield score
    yield score.removeprefix("0") if score.startswith("0") else "1"


def _draw_spectrogram(axes: Axes, overview: Any, pixels: Any, limits: tuple[float, float], begin: float) -> None:
    bands, columns = pixels.shape
    first = math.floor(begin / overview.column_seconds)
    last = min(math.ceil((begin + overview.row_seconds) / overview.column_seconds), columns)
    axes.imshow(
        pixels[:, first:last],
        origin="lower",
        aspect="auto",
        extent=(first * overview.column_seconds, last * overview.column_seconds, -0.5, bands - 0.5),
        cmap="magma",
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    marks = [hertz for hertz in HERTZ if hertz < overview.rate / 2]
    axes.set_yticks([overview.band_of(hertz) for hertz in marks], [f"{hertz:,}" for hertz in marks])
    axes.set_ylim(-0.5, bands - 0.5)
    axes.tick_params(axis="y", colors=QUIET, labelsize=8)
    axes.set_ylabel("hertz", fontsize=8.5, color=INK)


def _limits(heard: Heard) -> tuple[float, float]:
    """The decibels of the darkest and the lightest colour; they are not equal."""
    known = heard.overview.decibels()
    known = known[np.isfinite(known)]
    low, high = np.quantile(known, RANGE) if len(known) else (0.0, 0.0)
    return float(low), float(max(high, low + 1))


def _draw_probabilities(axes: Axes, heard: Heard, shown: Mapping[str, str]) -> None:
    ends = np.minimum(heard.starts + heard.window, heard.seconds)
    middles = (heard.starts + ends) / 2
    edges = np.concatenate([heard.starts[:1], (middles[:-1] + middles[1:]) / 2, ends[-1:]])
    for label, colour in shown.items():
        values = heard.probabilities[:, heard.labels.index(label)]
        axes.stairs(values, edges, baseline=None, color=colour, linewidth=1.2)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(axis="y", colors=QUIET, labelsize=8)
    axes.set_ylabel("probability", fontsize=8.5, color=INK)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _time_axis(axes: Axes, begin: float, seconds: float, named: bool) -> None:
    step = next((tick for tick in TICKS if seconds / tick <= 15), TICKS[-1])
    marks = np.arange(math.ceil(begin / step) * step, begin + seconds + step / 100, step)
    axes.set_xticks(marks, [clock_text(mark) for mark in marks] if named else [])
    axes.set_xlim(begin, begin + seconds)
    axes.tick_params(axis="x", colors=QUIET, labelsize=8, length=3 if named else 0)


def _short(name: str, letters: int = 26) -> str:
    """A name that fits: a label's beside its lane."""
    text = one_line(name)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
