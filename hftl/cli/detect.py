"""The command that says what is heard when in long recordings."""

from __future__ import annotations

import csv
import itertools
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hftl.cli.options import Run
from hftl.detections import Detection, Heard, clock_text
from hftl.errors import HftlError

if TYPE_CHECKING:
    from hftl.predictor import Predictor

SHOWN = 20
"""Detections in the table that is printed."""
GRID = 1e-6
"""So far may a step be from a whole part of a window."""

Recordings = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECORDING …")]


def detect(
    run: Run,
    recordings: Recordings,
    out: Path | None = None,
    submission: Path | None = None,
    picture: Path | None = None,
    overlap: float | None = None,
    threshold: float | None = None,
    ignore: tuple[str, ...] = (),
) -> None:
    """What is heard when in long recordings.

    They are cut into windows of the length that the run was trained on, and read once, a few windows at a time, so that
    hours need no more memory than minutes. Windows with one label that follow each other or overlap are one detection;
    one in which all samples are equal has no label. What is damaged or cut off is heard up to there, and named.

    Args:
        run: A run folder of audio classification.
        recordings: Sound files, and folders of them.
        out: A csv file to write: the detections, with the recording, start and end in seconds, label, and score (the
            highest probability in it).
        submission: A csv file to write: a row for each window of the grid from 0 on, row_id (as in BirdCLEF: the file's
            name without its ending, and the second at which the window ends), and the probability of each label. The
            last window then keeps its place in the grid and is filled up with silence; else it ends with the recording.
        picture: A folder to write to: for each recording a png of its spectrogram with the detections over it.
        overlap: Part of a window that the next one has as well, such as 0.5; unset, as in training.
        threshold: Probability that a label must have to be detected. Unset, 0.5 for the most probable label of a
            window; where a window may have any number of labels, the thresholds that the run tuned.
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
    names = [name for name, _ in predictor.long_inputs(recordings)]
    _check_names(names, out, submission)
    shape = None
    if picture is not None:
        from hftl.report import soundscape

        _made(picture, "--picture")
        shape = soundscape.COLUMNS, soundscape.MOST_ROWS
    with Display(Console(stderr=True)) as reader:
        heard_of = predictor.detect(
            recordings, overlap, threshold, shifted=submission is None, columns=shape, reader=reader
        )
        if submission is not None:
            _check_grid(predictor, overlap)
        tables = _Tables(
            _Table(out, "--out", ("recording", "start", "end", "label", "score")) if out else None,
            _Table(submission, "--submission", ("row_id", *predictor.labels)) if submission else None,
        )
        took, seconds, count, shown, told = 0.0, 0.0, 0, list[Detection](), 0
        drawn: set[str] = set()
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
                names_of = itertools.chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in itertools.count(2)))
                name = next(name for name in names_of if name not in drawn)
                drawn.add(name)
                soundscape.draw(heard, found, picture / name, ignore)
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


class _Table:
    """A csv file. What it held before is lost only when there is something to write.

    Raises:
        HftlError: it cannot be written; the option that names it is named.
    """

    def __init__(self, path: Path, option: str, columns: Sequence[str]) -> None:
        self._path, self._option, self._head = path, option, [columns]
        _made(path.parent, option)
        self._write([], "a")

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """More rows; the file is closed after them, so that they are there whatever happens to the next recording."""
        self._write([*self._head, *rows], "w" if self._head else "a")
        self._head = []

    def _write(self, rows: Sequence[Sequence[str]], mode: str) -> None:
        try:
            with self._path.open(mode, newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HftlError(f"{self._option} {self._path}: {reason}; name a file to write") from None


class _Tables:
    """The csv files, as far as they are wanted."""

    def __init__(self, detections: _Table | None, submission: _Table | None) -> None:
        self._detections, self._submission = detections, submission

    def add(self, heard: Heard, found: Sequence[Detection]) -> None:
        """What was heard in one recording."""
        if self._detections:
            self._detections.add(
                (each.recording, f"{each.start:.2f}", f"{each.end:.2f}", each.label, f"{each.score:.4f}")
                for each in found
            )
        if self._submission:
            self._submission.add((name, *(f"{value:.6g}" for value in row)) for name, row in heard.rows())


def _check_names(recordings: Sequence[str], out: Path | None, submission: Path | None) -> None:
    """That no table is written over a recording or the other table, and that no two recordings have the same rows."""
    sounds = {os.path.realpath(name) for name in recordings}
    for option, path in (("--out", out), ("--submission", submission)):
        if path is not None and os.path.realpath(path) in sounds:
            raise HftlError(f"{option} {path}: it is one of the recordings; name another file to write")
    if submission is None:
        return
    if out is not None and os.path.realpath(out) == os.path.realpath(submission):
        raise HftlError(f"--submission {submission}: --out is the same file; name another one")
    stems: dict[str, str] = {}
    for name in recordings:
        if (other := stems.setdefault(Path(name).stem, name)) != name:
            raise HftlError(f"--submission: {other} and {name} have the same row ids; rename one")


def _check_grid(predictor: Predictor, overlap: float | None) -> None:
    """That windows begin at all multiples of their length."""
    chosen = predictor.recipe.task.overlap if overlap is None else overlap
    if abs(1 / (1 - chosen) - round(1 / (1 - chosen))) > GRID:
        raise HftlError(
            f"--submission: with --overlap {chosen:g} windows miss the grid of its rows; give 0, 0.5 or 0.75"
        )


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

    from hftl.wording import one_line

    console, table = Console(), Table(box=None, pad_edge=False)
    figures: dict[str, Any] = {"justify": "right", "no_wrap": True}
    columns: dict[str, dict[str, Any]] = {
        # Without a limit, a long name leaves nothing of the other columns.
        "recording": {"overflow": "ellipsis", "no_wrap": True, "max_width": max(console.width // 3, 10)},
        "start": figures,
        "end": figures,
        "label": {"overflow": "fold"},
        "score": figures,
    }
    for name, look in columns.items():
        table.add_column(name, **look)
    for each in shown:
        cells = (clock_text(each.start), clock_text(each.end), one_line(each.label), f"{each.score:.3f}")
        table.add_row(*map(Text, (one_line(Path(each.recording).name), *cells)))
    if shown:
        console.print(table)
    if count > len(shown):
        print(f"… and {count - len(shown):,} more")


def _summary(recordings: int, seconds: float, took: float, count: int) -> str:
    from hftl.wording import seconds_text

    many = "1 recording" if recordings == 1 else f"{recordings:,} recordings"
    found = "1 detection" if count == 1 else f"{count:,} detections"
    speed = f", {seconds / took:,.0f} times real time" if took > 0 else ""
    return f"{found}; {seconds_text(seconds)} of {many} heard in {seconds_text(took)}{speed}"
