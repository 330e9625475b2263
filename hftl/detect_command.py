"""The command that says what is heard when in long recordings."""

from __future__ import annotations

import contextlib
import csv
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import tyro

from hftl.detections import Detection, Heard, clock_text
from hftl.errors import HftlError

if TYPE_CHECKING:
    from hftl.predictor import Predictor

SHOWN = 20
"""Detections in the table that is printed."""
GRID = 1e-6
"""So far may a step be from a whole part of a window."""

Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Recordings = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECORDING …")]


def detect(
    run: Run,
    recordings: Recordings,
    out: Path | None = None,
    submission: Path | None = None,
    picture: Path | None = None,
    overlap: float | None = None,
    least: float | None = None,
    ignore: tuple[str, ...] = (),
) -> None:
    """What is heard when in long recordings.

    They are cut into windows of the length that the run was trained on, and read once, a few windows at a time, so that
    hours need no more memory than minutes. Windows with one label that follow each other or overlap are one detection.

    Args:
        run: A run folder of audio classification.
        recordings: Sound files, and folders of them.
        out: A csv file to write: the detections, with the recording, start and end in seconds, label, and score (the
            highest probability in it).
        submission: A csv file to write: a row for each window of the grid from 0 on, row_id (as in BirdCLEF: the file's
            name without its ending, and the second at which the window ends), and the probability of each label.
        picture: A folder to write to: for each recording a png of its spectrogram with the detections over it.
        overlap: Part of a window that the next one has as well, such as 0.5; unset, as in training.
        least: Probability that a label must have to be detected. Unset, 0.5 for the most probable label of a window;
            where a window may have any number of labels, the thresholds that the run tuned.
        ignore: Labels that are not listed or drawn, such as one for background.
    """
    from rich.console import Console

    from hftl.display import Display
    from hftl.predictor import Predictor

    if not recordings:
        raise HftlError("detect: name recordings, before the options: sound files, or folders of them")
    predictor = Predictor(run)
    if strange := [label for label in ignore if label not in predictor.labels]:
        raise HftlError(f"--ignore {strange[0]}: the run has no such label; it has {', '.join(predictor.labels)}")
    if submission is not None:
        _check_grid(predictor, overlap)
    shape = None
    if picture is not None:
        from hftl.report import soundscape

        _made(picture, "--picture")
        shape = soundscape.COLUMNS, soundscape.MOST_ROWS
    with contextlib.ExitStack() as stack:
        heard_of = predictor.detect(
            recordings,
            overlap,
            least,
            shifted=submission is None,
            columns=shape,
            reader=stack.enter_context(Display(Console(stderr=True))),
        )
        tables = _Tables(
            stack.enter_context(_opened(out, "--out")) if out else None,
            stack.enter_context(_opened(submission, "--submission")) if submission else None,
            predictor.labels,
        )
        took, seconds, count, shown, told = 0.0, 0.0, 0, list[Detection](), 0
        drawn: Counter[str] = Counter()
        while True:
            began = time.monotonic()
            heard = next(heard_of, None)
            took += time.monotonic() - began  # of listening: drawing is another matter
            if heard is None:
                break
            found = heard.detections(ignore)
            tables.add(heard, found)
            if picture is not None:
                stem = Path(heard.recording).stem
                drawn[stem] += 1
                name = f"{stem}.png" if drawn[stem] == 1 else f"{stem}-{drawn[stem]}.png"
                soundscape.draw(heard, found, picture / name)
            seconds, count, shown = seconds + heard.seconds, count + len(found), [*shown, *found][:SHOWN]
            told += 1
    for row in predictor.bad_rows:
        print(f"hftl: {row.name}: {row.reason}", file=sys.stderr)
    if not told:
        raise HftlError("detect: none of the recordings could be read")
    _print(shown, count)
    print(_summary(told, seconds, took, count))
    for path in (out, submission, picture):
        if path is not None:
            print(f"written: {path}")


class _Tables:
    """The csv files, as far as they are wanted."""

    def __init__(self, detections: TextIO | None, submission: TextIO | None, labels: Sequence[str]) -> None:
        self._detections, self._submission = (
            None if file is None else csv.writer(file) for file in (detections, submission)
        )
        self._stems: dict[str, str] = {}
        if self._detections:
            self._detections.writerow(["recording", "start", "end", "label", "score"])
        if self._submission:
            self._submission.writerow(["row_id", *labels])

    def add(self, heard: Heard, found: Sequence[Detection]) -> None:
        """What was heard in one recording."""
        if self._detections:
            for each in found:
                times = f"{each.start:.2f}", f"{each.end:.2f}"
                self._detections.writerow([each.recording, *times, each.label, f"{each.score:.4f}"])
        if self._submission:
            stem = Path(heard.recording).stem
            other = self._stems.setdefault(stem, heard.recording)
            if other != heard.recording:
                raise HftlError(f"--submission: {other} and {heard.recording} have the same row ids; rename one")
            for name, row in heard.rows():
                self._submission.writerow([name, *(f"{value:.6g}" for value in row)])


def _check_grid(predictor: Predictor, overlap: float | None) -> None:
    """That windows begin at all multiples of their length."""
    chosen = predictor.recipe.task.overlap if overlap is None else overlap
    if abs(1 / (1 - chosen) - round(1 / (1 - chosen))) > GRID:
        raise HftlError(
            f"--submission: with --overlap {chosen:g} windows miss the grid of its rows; give 0, 0.5 or 0.75"
        )


def _opened(path: Path, option: str) -> TextIO:
    _made(path.parent, option)
    try:
        return path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise HftlError(f"{option} {path}: {(error.strerror or str(error)).lower()}; name a file to write") from None


def _made(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HftlError(f"{option} {folder}: {(error.strerror or str(error)).lower()}; name a folder") from None


def _print(shown: Sequence[Detection], count: int) -> None:
    """The first detections as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hftl.display import one_line

    table = Table(box=None, pad_edge=False)
    columns: dict[str, dict[str, Any]] = {
        "recording": {"overflow": "ellipsis", "no_wrap": True},
        "start": {"justify": "right"},
        "end": {"justify": "right"},
        "label": {"overflow": "fold"},
        "score": {"justify": "right"},
    }
    for name, look in columns.items():
        table.add_column(name, **look)
    for each in shown:
        cells = (clock_text(each.start), clock_text(each.end), one_line(each.label), f"{each.score:.3f}")
        table.add_row(*map(Text, (one_line(Path(each.recording).name), *cells)))
    if shown:
        Console().print(table)
    if count > len(shown):
        print(f"… and {count - len(shown):,} more")


def _summary(recordings: int, seconds: float, took: float, count: int) -> str:
    from hftl.display import seconds_text

    many = "1 recording" if recordings == 1 else f"{recordings:,} recordings"
    found = "1 detection" if count == 1 else f"{count:,} detections"
    speed = f", {seconds / took:,.0f} times real time" if took > 0 else ""
    return f"{found}; {seconds_text(seconds)} of {many} heard in {seconds_text(took)}{speed}"
