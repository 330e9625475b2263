"""What people see of a run: a reader of its records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING

from hftl.records import (
    Evaluated,
    EvaluationProgress,
    FeaturesPlanned,
    FeaturesProgress,
    FeaturesReady,
    GroupRow,
    HeadSolved,
    Noted,
    PhaseEnded,
    PhaseStarted,
    Record,
    RunEnded,
    RunStarted,
    StepTaken,
)
from hftl.wording import (
    batch_text,
    count_text,
    few_text,
    head_text,
    length_text,
    one_line,
    phase_text,
    place_text,
    rate_text,
    rows_text,
    score_names,
    score_text,
    scores_text,
    seconds_text,
    size_text,
    trained_text,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

LOG_WIDTH = 120
"""Columns of a log file, which has no width of its own."""
MANY_COLUMNS = 7
"""More scores than a table has room for beside each other."""
LOG_SECONDS = 5.0
"""Least time between two lines of progress where there is no terminal."""
LOG_LINES = 10
"""Most lines of progress in an epoch or an evaluation where there is no terminal."""
DIM, STRONG, GOOD, PHASE = "dim", "bold", "green", "bold cyan"


class Display:
    """Shows the records of a run, in the order in which ``Trainer.run()`` yields them.

    On a terminal: live progress bars under lines that stay. Elsewhere, as in a log file: plain lines, of progress at
    most ``LOG_LINES`` an epoch and one every ``LOG_SECONDS``. As a context manager it ends the live part on leaving.

    Args:
        console: Where to write; unset, standard output.
        clock: Seconds, rising.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._console = console or _standard_output()
        self._clock = clock
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=max(8, min(30, self._console.width - 85))),
            # Where the terminal is narrow, this column alone is cut.
            TextColumn("{task.fields[details]}", DIM, markup=False, table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            disable=not self._live,
        )
        self._bar_of = {unit: self._bars.add_task("", visible=False, details="") for unit in ("steps", "rows")}
        self._majority: dict[str, float] = {}
        self._processes = 1
        self._phases: dict[int, PhaseStarted] = {}
        self._ended: dict[int, PhaseEnded] = {}
        self._loss: float | None = None
        # Speed is measured from the record before the first of a series of steps, or of a series of predictions.
        self._series: tuple[type[Record], str | None] | None = None
        self._latest = self._since = self._spoke = clock()
        self._steps = self._rows = 0
        self._tenth: tuple[str, int] = ("", 0)

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, record: Record) -> None:
        """Show one record."""
        now = self._clock()
        series = type(record), getattr(record, "split", None)  # training rows are no measure for those after them
        if series != self._series:
            self._series, self._since, self._steps, self._rows = series, self._latest, 0, 0
        self._latest = now
        match record:
            case StepTaken():
                self._show_step(record, now)
            case EvaluationProgress():
                rate = _per_second(record.done, now - self._since)
                self._show_progress(one_line(record.split), record.done, record.rows, rate, "rows", now)
            case FeaturesProgress():
                rate, name = _per_second(record.done, now - self._since), f"frozen layers · {one_line(record.split)}"
                self._show_progress(name, record.done, record.rows, rate, "rows", now)
            case FeaturesPlanned():
                self._say(features_planned(record), now)
            case FeaturesReady():
                self._say(features_ready(record), now)
            case HeadSolved():
                self._say(head_solved(record), now)
            case Noted():
                self._say(_text(f"  {one_line(record.note)}"), now)
            case RunStarted():
                self._majority, self._processes = record.majority, record.processes
                self._say(run_started(record), now)
            case PhaseStarted():
                self._phases[record.phase], self._loss = record, None
                self._say(phase_started(record), now)
            case Evaluated():
                self._say(evaluated(record), now)
            case PhaseEnded():
                self._ended[record.phase] = record
                self._say(phase_ended(record, self._processes), now)
            case RunEnded():
                begun = [self._phases[number] for number in self._ended]
                names = [phase_text(phase.unfreeze, phase.train, phase.refit) for phase in begun]
                ended = [*zip(names, self._ended.values(), strict=True)]
                self._say(run_ended(record, self._majority, ended), now)

    def _show_step(self, record: StepTaken, now: float) -> None:
        total = self._phases[record.phase].steps_per_epoch
        done = record.step % total + 1
        self._steps, self._rows = self._steps + 1, self._rows + record.rows
        self._loss = record.loss if record.loss is not None else self._loss
        elapsed = now - self._since
        details = [
            *([f"loss {score_text(self._loss)}"] if self._loss is not None else []),
            *([f"{seconds_text((total - done) * elapsed / self._steps)} left"] if done < total else []),
            _per_second(self._rows, elapsed),
            f"lr {rate_text(record.lr)}",
        ]
        self._show_progress(_place(record.phase, record.epoch), done, total, " · ".join(details), "steps", now)

    def _show_progress(self, name: str, done: int, total: int, details: str, unit: str, now: float) -> None:
        details = f"{done:,}/{total:,} {unit} · {details}"
        bar = self._bar_of[unit]
        self._bars.update(bar, description=name, completed=done, total=total, details=details, visible=True)
        tenth = (name, LOG_LINES * done // max(1, total))
        if not self._live and done and tenth != self._tenth and now - self._spoke >= LOG_SECONDS:
            self._say(_text(f"  {name} · {details}"), now)
            self._tenth = tenth

    def _say(self, what: RenderableType, now: float) -> None:
        from rich.text import Text

        for bar in self._bar_of.values():
            self._bars.update(bar, visible=False)
        self._bars.refresh()
        self._spoke = now
        # A line stays one line: in a log nobody wants it broken, and a terminal breaks it by itself.
        self._console.print(what, soft_wrap=isinstance(what, Text))


# What each record looks like.


def run_started(record: RunStarted) -> RenderableType:
    """What is about to run: task, model, data, machine, weights, notes."""
    loaded = record.loaded
    processes = f"{record.processes} process" + ("es" if record.processes > 1 else "")
    fields = [
        ("model", one_line(record.model)),
        ("data", " · ".join(f"{one_line(split)} {count:,}" for split, count in record.rows.items()) + " rows"),
        ("labels", f"{len(record.labels)}: {few_text(record.labels)}" if record.labels else ""),
        ("device", f"{record.device} · {record.precision} · {processes}"),
        ("training", f"batch size {batch_text(record)} · seed {record.seed}"),
        ("loaded", f"{loaded['tensors']:,} tensors with {count_text(loaded['parameters'])} parameters"),
        ("new", few_text(loaded["new"])),
        ("dropped", few_text(loaded["dropped"])),
        ("majority", scores_text(record.majority)),
        ("folder", one_line(record.folder)),
        *(("note", one_line(note)) for note in record.notes),
    ]
    heading = _text(("hftl", PHASE), (f" {one_line(record.task)}", STRONG))
    return _block(heading, _fields([(name, value) for name, value in fields if value]))


def phase_started(record: PhaseStarted) -> RenderableType:
    """What trains in this phase, group by group, and for how long."""
    table = _table(
        ["layers", "parameters", "trainable", "lr"],
        [
            (
                _text((name, "" if trainable else DIM)),
                _text((count_text(parameters), "" if trainable else DIM)),
                _text((count_text(trainable), GOOD) if trainable else ("frozen", DIM)),
                _text(" … ".join(map(rate_text, rates))),
            )
            for name, parameters, trainable, rates in collapse(record.groups)
        ],
    )
    trained = trained_text(sum(g.trainable for g in record.groups), sum(g.parameters for g in record.groups))
    total = _text(f"  trains {trained}, {length_text(record.solver, record.epochs, record.steps_per_epoch)}")
    idle = [_text(f"  stays frozen, no gradient reaches it: {few_text(record.idle)}")] if record.idle else []
    named = phase_text(record.unfreeze, record.train, record.refit)
    heading = _text((f"phase {record.phase}:", PHASE), (f" {named}", STRONG))
    return _block(heading, table, total, *idle)


def collapse(groups: Iterable[GroupRow]) -> list[tuple[str, int, int, tuple[float, ...]]]:
    """Groups as (name, parameters, trainable, learning rates); consecutive blocks alike are one row, ``block 0-3``.

    The learning rates are those of the first and the last block; one where they are the same, none where frozen. Groups
    without parameters, such as the neck of many models, are left out.
    """

    def state(row: GroupRow) -> tuple[object, ...]:
        kind, _, index = row.group.partition(" ")
        part = "none" if not row.trainable else "all" if row.trainable == row.parameters else "some"
        return (kind, part) if index.isdecimal() else (row.group,)

    rows = []
    for _, run in groupby((group for group in groups if group.parameters), key=state):
        same = list(run)
        first, last = same[0], same[-1]
        name = first.group if len(same) == 1 else f"{first.group}-{last.group.rpartition(' ')[2]}"
        rates = tuple(dict.fromkeys(lr for lr in (first.lr, last.lr) if lr is not None))
        rows.append((name, sum(g.parameters for g in same), sum(g.trainable for g in same), rates))
    return rows


def features_planned(record: FeaturesPlanned) -> Text:
    """One line: how large the features of which rows are, and which of them are there."""
    there = f", there already: {', '.join(record.there)}" if record.there else ""
    size = f"{size_text(record.bytes)} in {one_line(record.folder)}"
    return _text(
        f"  stores features of {rows_text(record.rows)} rows: {size}{there}",
        (f" · {len(record.removed)} older stores would go for room" if record.removed else "", DIM),
    )


def features_ready(record: FeaturesReady) -> Text:
    """One line: how many rows' features there are, how large, whether they had to be computed, and of what views."""
    views = {0: "", 1: " · one plain view a row (--store.views 4: four random ones)"}
    made = f"computed in {seconds_text(record.seconds)}" if record.computed else "found"
    return _text(
        f"  features of {rows_text(record.rows)} rows {made}",
        (f" · {size_text(record.bytes)}", DIM),
        (views.get(record.views, f" · {record.views} random views a row"), DIM),
        (f" · {len(record.removed)} older stores removed for room" if record.removed else "", DIM),
    )


def head_solved(record: HeadSolved) -> Text:
    """One line: how the head was solved, and what its folds say of it."""
    folds = f" · by folds: {scores_text(record.scores)}" if record.scores else ""
    return _text(f"  {head_text(record)}{folds}", (f" · {seconds_text(record.seconds)}", DIM))


def evaluated(record: Evaluated) -> Text:
    """One line of scores."""
    place = "pretrained" if record.phase is None else _place(record.phase, record.epoch)
    return _text(
        f"  {place} · {one_line(record.split)}: ",
        (scores_text(record.scores), STRONG),
        (" (kept)" if record.best else "", GOOD),
        (f" · {seconds_text(record.seconds)}", DIM),
    )


def phase_ended(record: PhaseEnded, processes: int = 1) -> Text:
    """One line: which epoch was kept, that the frozen stayed frozen, and that all processes have the same."""
    agreed = f" · {processes} processes agree on {record.digest[:8]}" if processes > 1 else ""
    kept = "the solved head" if record.best_epoch is None else f"epoch {record.best_epoch}"
    return _text(
        (f"  phase {record.phase}", PHASE),
        f" ended{' early' if record.stopped_early else ''} · {kept} kept",
        (f": {scores_text(record.scores)}" if record.scores else "", STRONG),
        (f" · {record.frozen_tensors:,} frozen tensors bit-equal" if record.frozen_tensors else "", DIM),
        (agreed, DIM),
        (f" · {seconds_text(record.seconds)}", DIM),
    )


def run_ended(
    record: RunEnded, majority: Mapping[str, float], phases: Sequence[tuple[str, PhaseEnded]]
) -> RenderableType:
    """The result: scores from the majority to the saved model, times, and where everything lies.

    Args:
        record: The end of the run.
        majority: Validation scores of always giving the commonest label.
        phases: What each phase trained, in words, and how it ended.
    """
    chosen = "chosen model" if record.refit else "saved model"
    rows: list[tuple[str, Mapping[str, float], str, str]] = [
        ("majority · validation", majority, "", DIM),
        *(
            (
                f"phase {phase.phase}: {name}{' · validation' if phase.scores else ''}",
                phase.scores,
                seconds_text(phase.seconds),
                "",
            )
            for name, phase in phases
        ),
        *(
            (f"{chosen if split == 'validation' else 'saved model'} · {one_line(split)}", scores, "", STRONG)
            for split, scores in record.scores.items()
        ),
    ]
    names = score_names(scores for _, scores, _, _ in rows)
    table = _table(
        ["", *map(one_line, names), "time"],
        [
            (
                _text((name, style)),
                *(_text((score_text(scores[key]) if key in scores else "", style)) for key in names),
                _text((seconds, DIM)),
            )
            for name, scores, seconds, style in rows
        ],
    )
    kept = "the pretrained model" if record.best_phase is None else place_text(record.best_phase, record.best_epoch)
    kept += ", trained once more on all rows" if record.refit else ""
    files = _fields(
        [
            ("folder", one_line(record.folder)),
            ("model/", f"{kept}; transformers loads it")
            if record.saved == "model"
            else ("adapter/", f"{kept}; peft loads it over the checkpoint (--merge-lora writes a whole model/)"),
            ("curves.png", "losses and scores over the run"),
            ("metrics.json", "all scores"),
            ("README.md", "the model card"),
        ]
    )
    heading = _text(("result", PHASE), (f" after {seconds_text(record.seconds)}", DIM))
    return _block(heading, table, "", files)


# The pieces they are made of.


def _standard_output() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def _place(phase: int, epoch: int | None) -> str:
    return f"phase {phase} · " + ("solved" if epoch is None else f"epoch {epoch}")


def _per_second(rows: int, seconds: float) -> str:
    rate = rows / seconds if seconds > 0 else 0.0
    return f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.1f} rows/s"


def _text(*parts: str | tuple[str, str]) -> Text:
    """Text of plain parts and (text, style) pairs; nothing in it is read as markup."""
    from rich.text import Text

    return Text.assemble(*parts)


def _block(*parts: RenderableType) -> RenderableType:
    from rich.console import Group

    return Group("", *parts)


def _table(headers: Sequence[str], rows: Iterable[Sequence[Text]]) -> RenderableType:
    """A table without rules: names on the left, numbers to the right."""
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style=DIM)
    for index, header in enumerate(headers):
        # Many columns do not fit: their names are broken between words.
        name = header.replace("_", " ") if len(headers) > MANY_COLUMNS else header
        table.add_column(_text(name), justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return Padding.indent(table, 2)


def _fields(rows: Sequence[tuple[str, str]]) -> RenderableType:
    """Names and what they stand for, in two columns."""
    from rich.padding import Padding
    from rich.table import Table

    table: Table = Table.grid(padding=(0, 3, 0, 0))
    for name, value in rows:
        table.add_row(_text((name, DIM)), _text(value))
    return Padding.indent(table, 2)
