"""What a run tells: one dataclass for each thing that can happen, as plain data.

``Trainer.run()`` yields these in order; the progress display, the history file and whatever a user adds are readers
of that stream. Field names are those of ``history.jsonl``. ``seconds`` fields differ between two runs of one recipe,
and which features had to be computed; everything else is the same.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

BY_LABEL = "AP/"
"""How scores begin that are of one label: history and metrics have them all, tables have no room for them."""
LOWER_IS_BETTER = frozenset({"loss", "false_alarms_per_hour"})
"""Names of scores that are the better the lower they are."""


@dataclass(frozen=True)
class RunStarted:
    """The run is set up: data read, model loaded."""

    folder: str
    task: str
    model: str
    device: str
    precision: str
    processes: int
    batch_size: int
    seed: int
    rows: dict[str, int]
    labels: list[str]
    notes: list[str]
    """What was decided on the way (a split that was cut, rows that were skipped), a line each."""
    loaded: dict[str, Any]
    """What came from the checkpoint: {"tensors": int, "parameters": int, "new": [...], "dropped": [...]}"""
    majority: dict[str, float]
    """Validation scores of always answering with the commonest training label."""
    accumulation: int = 1


@dataclass(frozen=True)
class GroupRow:
    """One layer group in one phase."""

    group: str
    parameters: int
    trainable: int
    lr: float | None
    """Peak learning rate; None where frozen."""


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins: what trains in it, and for how many steps."""

    phase: int
    unfreeze: str
    epochs: int
    steps_per_epoch: int
    lr: float
    groups: list[GroupRow]
    train: str = "weights"
    """What trains of the unfrozen blocks: weights, lora, bias, norm."""
    solver: str = "steps"
    """lbfgs where the last layer of the head is solved on stored features; with no epochs, nothing else trains."""
    refit: bool = False
    """Whether it is a phase of the second pass, on all rows: those to train and those that validated the first."""
    idle: list[str] = dataclasses.field(default_factory=list)
    """Parameters of unfrozen groups that no gradient reaches; they stay frozen."""


@dataclass(frozen=True)
class FeaturesPlanned:
    """What a phase would store, as ``hftl plan`` tells."""

    phase: int
    rows: dict[str, int]
    """By split; each view of a row counts."""
    there: list[str]
    """The splits that are in the store already."""
    bytes: int
    folder: str
    removed: list[str]
    """Names of stores that would have to make room."""


@dataclass(frozen=True)
class FeaturesProgress:
    """So many rows of a split have gone through the frozen layers."""

    split: str
    done: int
    rows: int


@dataclass(frozen=True)
class FeaturesReady:
    """The phase trains and is evaluated on stored features: its frozen layers cost nothing from now on."""

    phase: int
    cut: str
    """The module that the stored features go into."""
    rows: dict[str, int]
    """By split; each view of a row counts."""
    computed: list[str]
    """The splits that had to be computed now; the others were there."""
    bytes: int
    views: int
    """Random views of each training row; 1: the plain one; 0: there are no others."""
    folder: str
    removed: list[str]
    """Names of stores that had to make room."""
    seconds: float


@dataclass(frozen=True)
class HeadSolved:
    """The last layer of the head is at its optimum."""

    phase: int
    layer: str
    rows: int
    width: int
    """Features of a row."""
    penalty: float
    temperature: float
    folds: int
    """Into how many parts the rows were dealt to choose penalty and temperature; 0: these were given."""
    scores: dict[str, float]
    """Of the training rows, each by a head that was fitted without it; empty where no penalty was chosen, or not on
    all rows."""
    seconds: float


@dataclass(frozen=True)
class Noted:
    """What a person should know of how a phase runs."""

    phase: int
    note: str


@dataclass(frozen=True)
class StepTaken:
    """One optimizer step. ``loss`` and ``grad_norm`` are means over the steps since the last that had them."""

    phase: int
    epoch: int
    step: int
    """Counted from 0 within the phase."""
    rows: int
    lr: float
    loss: float | None
    grad_norm: float | None


@dataclass(frozen=True)
class EvaluationProgress:
    """So many of the split's rows have been predicted."""

    split: str
    done: int
    rows: int


@dataclass(frozen=True)
class Evaluated:
    """Scores of one split after an epoch, of a solved head (epoch is None), or of the pretrained model (both are)."""

    phase: int | None
    epoch: int | None
    split: str
    scores: dict[str, float]
    best: bool
    """Whether these are kept of their phase so far."""
    seconds: float
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the task chose on validation to turn outputs into answers, such as thresholds."""
    parts: list[float] = dataclasses.field(default_factory=list)
    """How right the answers are, from 0 to 1, in each of a few parts of the rows (see ``certainty``)."""


@dataclass(frozen=True)
class PhaseEnded:
    """A phase is over and its best epoch restored."""

    phase: int
    best_epoch: int | None
    """None: the head that was solved."""
    scores: dict[str, float]
    """On validation; empty in the second pass, which leaves no rows to validate."""
    stopped_early: bool
    frozen_tensors: int
    """Parameters and buffers that were frozen: found bit-equal to what they were when the phase began."""
    seconds: float
    digest: str = ""
    """Of all parameters and buffers as the phase leaves them, found equal on all processes: runs that have it in
    common are the same run."""
    refit: bool = False


@dataclass(frozen=True)
class RunEnded:
    """The best model is saved."""

    best_phase: int | None
    best_epoch: int | None
    scores: dict[str, dict[str, float]]
    """Of the saved model, by split."""
    folder: str
    seconds: float
    saved: str = "model"
    """Where in the folder the result is: model, a whole model, or adapter, a peft folder over the checkpoint."""
    refit: bool = False
    """Whether the saved model was trained once more on all rows; validation scores are of the model before that."""
    error: float | None = None
    """Standard error of the first validation score, from its rows."""


Record = (
    RunStarted
    | PhaseStarted
    | FeaturesPlanned
    | FeaturesProgress
    | FeaturesReady
    | HeadSolved
    | Noted
    | StepTaken
    | EvaluationProgress
    | Evaluated
    | PhaseEnded
    | RunEnded
)


def as_plain(record: Record) -> dict[str, Any]:
    """The record as JSON-ready data, its kind under ``record``."""
    return {"record": type(record).__name__, **dataclasses.asdict(record)}
