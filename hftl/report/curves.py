"""The curves of a run as one picture: losses over the steps, scores after every epoch, phases side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftl.errors import HftlError
from hftl.run_folder import RunFolder
from hftl.wording import one_line, score_names, score_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plain = dict[str, Any]
Points = Sequence[tuple[float, float]]

SIZE = (9.0, 6.2)
"""Inches; at 100 dots each, the 900 pixels that the picture is drawn to be read at."""
DPI = 200
INK, QUIET, FAINT = "#222222", "#666666", "#dddddd"
COLOURS = ("#2563c9", "#d9622b", "#2e8b57", "#8a4fbf", "#b8860b", "#c23b6b")
RING: Plain = {"marker": "o", "markersize": 9, "fillstyle": "none", "linestyle": "none"}
STAR: Plain = {"marker": "*", "markersize": 14, "markeredgecolor": "white", "linestyle": "none", "zorder": 3}
NARROW = 0.16
"""A phase with less than this share of the width has its label on two lines."""


@dataclass(frozen=True)
class Span:
    """A phase on the axis of steps."""

    phase: int
    trained: str
    """What it unfroze, and what of that has trained."""
    start: int
    steps_per_epoch: int
    end: int

    def after(self, epoch: int | None) -> int:
        """The step, from the start of the run, at which an epoch has ended; None: at which the head was solved."""
        return self.start if epoch is None else self.start + (epoch + 1) * self.steps_per_epoch


def draw(folder: Path) -> Path:
    """Draw ``curves.png`` from the ``history.jsonl`` of a run folder.

    Returns:
        The path of the picture, 1800 x 1240 pixels.

    Raises:
        HftlError: there is no history, or a line of it is no record.
    """
    path = folder / "curves.png"
    picture(read_history(folder)).savefig(path)
    return path


def picture(history: Sequence[Plain]) -> Figure:
    """The figure that ``draw`` saves."""
    from matplotlib.figure import Figure

    figure, spans = Figure(figsize=SIZE, dpi=DPI, layout="constrained"), spans_of(history)
    if spans:
        _draw_phases(figure, history, spans)
    else:
        _draw_pretrained(figure, history)
    _title(figure, history)
    return figure


def read_history(folder: Path) -> list[Plain]:
    """The records of a run, in order, as plain data with their kind under ``record``.

    Raises:
        HftlError: there is no history, or a line of it is no record.
    """
    path = RunFolder(folder).history
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(file)  # not splitlines(): a label may hold U+2028
    except OSError as error:
        raise HftlError(f"{path}: {error.strerror or error}; name the folder of a run") from None
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            history.append({**record, "record": str(record["record"])})
        except (ValueError, TypeError, KeyError):
            raise HftlError(f"{path}: line {number} is no record; remove it, or run again") from None
    return history


def of_kind(history: Sequence[Plain], *kinds: str) -> list[Plain]:
    """The records of these kinds."""
    return [record for record in history if record["record"] in kinds]


def spans_of(history: Sequence[Plain]) -> list[Span]:
    """Where each phase lies on the axis of steps; an early end makes it shorter than declared."""
    spans: list[Span] = []
    started = {record["phase"]: record for record in of_kind(history, "PhaseStarted")}
    for phase, record in sorted(started.items()):
        start, per_epoch = spans[-1].end if spans else 0, record["steps_per_epoch"]
        steps = [each["step"] + 1 for each in of_kind(history, "StepTaken") if each["phase"] == phase]
        ended = [each["epoch"] for each in _validations(history) if each["phase"] == phase]
        epochs = [(epoch + 1) * per_epoch for epoch in ended if epoch is not None]
        part = "" if record["train"] == "weights" else f", {record['train']}"
        rows = ", all rows" if record["refit"] else ""
        end = start + max([0, *steps, *epochs])
        spans.append(Span(phase, f"{record['unfreeze']}{part}{rows}", start, per_epoch, end))
    if spans and spans[-1].end == 0:  # heads that were solved take no steps
        spans = [replace(span, end=1) for span in spans]
    return spans


def _validations(history: Sequence[Plain]) -> list[Plain]:
    return [record for record in of_kind(history, "Evaluated") if record["split"] == "validation"]


def _saved(history: Sequence[Plain]) -> set[tuple[int, int | None]]:
    """Phase and epoch of the saved model, where the history tells: at its end, or with the scores of the test split."""
    ended = [(each["best_phase"], each["best_epoch"]) for each in of_kind(history, "RunEnded")]
    tested = [(each["phase"], each["epoch"]) for each in of_kind(history, "Evaluated") if each["split"] == "test"]
    return {place for place in [*tested, *ended][-1:] if place[0] is not None}


def _refit(history: Sequence[Plain]) -> bool:
    """Whether there is a second pass, on all rows."""
    return any(record["refit"] for record in of_kind(history, "PhaseStarted"))


# The picture of a run with phases.


def _draw_phases(figure: Figure, history: Sequence[Plain], spans: Sequence[Span]) -> None:
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_losses(above, history, spans)
    _draw_scores(below, history, spans)
    total = spans[-1].end
    for axes in (above, below):
        axes.set_xlim(0, total)
        axes.margins(y=0.12)
        for span in spans[1:]:
            axes.axvline(span.start, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        _legend(axes)
    for span in spans:
        gap = "\n" if span.end - span.start < NARROW * total else " "
        middle = (span.start + span.end) / 2
        above.annotate(
            f"phase {span.phase}:{gap}{span.trained}",
            (middle, 1),
            xytext=(0, 5),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9.5,
            color=INK,
        )
    below.locator_params(axis="x", integer=True)
    below.set_xlabel("steps")


def _draw_losses(axes: Axes, history: Sequence[Plain], spans: Sequence[Span]) -> None:
    """Training loss as a line that breaks between phases, validation loss as points."""
    _style(axes, "loss")
    steps = [each for each in of_kind(history, "StepTaken") if each["loss"] is not None]
    lines = [
        [(span.start + each["step"] + 1, each["loss"]) for each in steps if each["phase"] == span.phase]
        for span in spans
    ]
    _plot(axes, lines, "training", color=COLOURS[0])
    _plot(axes, [_curve(history, spans, "loss")], "validation", color=COLOURS[1], marker="o", linestyle="none")


def _draw_scores(axes: Axes, history: Sequence[Plain], spans: Sequence[Span]) -> None:
    """Validation scores after every epoch; on the first one a ring marks the best of each phase, a star the saved."""
    _style(axes, "validation scores")
    names, majority = [name for name in _names(history) if name != "loss"], _majority(history)
    for index, (name, colour) in enumerate(zip(names, cycle(COLOURS), strict=False)):
        lines = [_curve(history, [span], name) for span in spans]
        _plot(axes, lines, name, color=colour, marker="o", zorder=3 - index / len(names))
    saved = _saved(history)
    best = {(each["phase"], each["best_epoch"]) for each in of_kind(history, "PhaseEnded") if not each["refit"]}
    for first in names[:1]:
        chosen = "chosen, then trained on all rows" if _refit(history) else "saved model"
        for label, look, places in (("kept of its phase", RING, best - saved), (chosen, STAR, saved)):
            steps = {span.after(epoch) for span in spans for phase, epoch in places if phase == span.phase}
            marked = [(step, score) for step, score in _curve(history, spans, first) if step in steps]
            _plot(axes, [marked], label, color=COLOURS[0], **look)
        if first in majority:
            axes.axhline(majority[first], color=QUIET, linewidth=1, linestyle=":", label="majority")


def _plot(axes: Axes, lines: Sequence[Points], label: str, **look: Any) -> None:
    """Several lines of one look under one entry of the legend; none at all without a point."""
    known = [line for line in lines if line]
    for number, line in enumerate(known):
        lone = {"marker": "o"} if len(line) == 1 else {}  # a single point makes no line
        settings = {"linewidth": 1.4, "markersize": 4, "clip_on": False, **lone, **look}
        axes.plot(*_columns(line), label=None if number else _plain(label), **settings)


def _curve(history: Sequence[Plain], spans: Sequence[Span], name: str) -> Points:
    """(step, score) after every epoch of these phases that has that score."""
    by_phase = {span.phase: span for span in spans}
    return [
        (by_phase[each["phase"]].after(each["epoch"]), each["scores"][name])
        for each in _validations(history)
        if each["phase"] in by_phase and each["scores"].get(name) is not None
    ]


# The picture of a run without phases.


def _draw_pretrained(figure: Figure, history: Sequence[Plain]) -> None:
    """A bar for each score of each split, beside the majority's."""
    axes = figure.subplots()
    _style(axes, "scores")
    scores = {"majority (validation)": _majority(history)}
    scores |= {each["split"]: each["scores"] for each in of_kind(history, "Evaluated")}
    names = [name for name in score_names(scores.values()) if name != "loss"]
    width = 0.8 / len(scores)
    for place, (split, values) in enumerate(scores.items()):
        known = [
            (at + (place - (len(scores) - 1) / 2) * width, values[name])
            for at, name in enumerate(names)
            if name in values
        ]
        colour = FAINT if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
        bars = axes.bar(*_columns(known), width=0.9 * width, color=colour, label=_plain(split))
        axes.bar_label(bars, [score_text(value) for _, value in known], fontsize=9, color=INK, padding=2)
    axes.set_xticks(range(len(names)), [_plain(name) for name in names])
    axes.margins(y=0.12)
    _legend(axes)


# The pieces they are made of.


def _title(figure: Figure, history: Sequence[Plain]) -> None:
    """Model and task; under it, the first score of the saved model on each split."""
    lines = []
    for started in of_kind(history, "RunStarted")[-1:]:
        model = "/".join(Path(started["model"]).parts[-2:])  # a Hub name, or the end of a path
        lines.append(f"{one_line(model)} · {started['task']}")
    for ended in of_kind(history, "RunEnded")[-1:]:
        first = [(split, *next(iter(scores.items()))) for split, scores in ended["scores"].items() if scores]
        lines.append(" · ".join(f"{split} {name} {score_text(value)}" for split, name, value in first))
    figure.suptitle(_plain("\n".join(lines)), x=0.01, ha="left", fontsize=11, color=INK)


def _style(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, color=INK, fontsize=10)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False, labelcolor=INK)


def _names(history: Sequence[Plain]) -> list[str]:
    return score_names(each["scores"] for each in _validations(history))


def _majority(history: Sequence[Plain]) -> Mapping[str, float]:
    started = of_kind(history, "RunStarted")
    return started[-1]["majority"] if started else {}


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
