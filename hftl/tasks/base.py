"""What the trainer asks of a task: rows to batches, model and head, loss, predictions, scores.

A task is a frozen dataclass of options. It holds no state: what it loads it returns, and what it needs it is given,
so one task serves training, evaluation and prediction alike. Tasks never see the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from datasets import Dataset

    from hftl.data.batches import Batch, Examples, Loss, Outputs, Settings
    from hftl.data.splits import BadRow, Splits
    from hftl.model.heads import Loaded

NOTHING = "(no answer)"
"""How an empty answer is called where answers are listed."""


class Task(Protocol):
    """Modality and objective."""

    name: ClassVar[str]
    """As typed: ``image-classification``."""
    auto_class: ClassVar[str]
    """The ``AutoModelFor…`` class that loads its models."""
    head_lr: ClassVar[float]
    """Default peak learning rate of a phase that trains head or neck alone."""
    lr: ClassVar[float]
    """Default peak learning rate of a phase that trains backbone blocks."""
    lr_width: ClassVar[int | None]
    """Of models of this width (``hidden_size``); others get it in inverse proportion. None: of models of any width."""
    answer: ClassVar[str]
    """The key of an answer that is the answer in a word: ``label``."""
    majority_is: ClassVar[str]
    """What ``majority`` does: "always answers with the commonest training label"."""
    fields: ClassVar[tuple[str, ...]]
    """The parts of an input, where it has several."""

    @classmethod
    def know_models(cls) -> None:
        """Let the ``Auto`` classes of transformers load models that only hftl knows; none, for most tasks."""

    def load_data(self, seed: int, model: str, keep_head: bool, trust_remote_code: bool, cut: bool = True) -> Splits:
        """The splits, checked, labels fixed; ``keep_head`` orders the labels as the model's own head does.

        Where there is no validation split, one is ``cut`` from train (else it is empty).
        """

    def resolved(self, splits: Splits, processor: Any) -> Self:
        """The task with what data and processor decided filled in, so that a run reads other data the same way."""

    def load_model(
        self,
        model: str,
        labels: Sequence[str],
        processor: Any,
        keep_head: bool,
        head_dropout: float,
        trust_remote_code: bool,
    ) -> Loaded:
        """The pretrained model in float32 with a head for ``labels``, as ``processor`` feeds it."""

    def load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """What turns inputs into what the model takes: image processor, tokenizer; saved beside the model."""

    def examples(self, dataset: Dataset, processor: Any, augment: bool) -> Examples:
        """The rows as batches the model takes; random views of them if ``augment``."""

    def objective(self, train: Dataset) -> Loss:
        """The loss to train with. What it has to know of the training rows (how rare a label is), it learns here."""

    def reduce(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """What scores and answers need of a batch's outputs: tensors of shape (rows, …), of one shape in all batches.

        All of a split's are kept in memory: they should not grow with what the model sees of a row.
        """

    def tune(self, outputs: Outputs, dataset: Dataset) -> dict[str, Any]:
        """Settings chosen by a labelled split, such as thresholds: kept in the model's configuration; may be empty."""

    def score(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> dict[str, float]:
        """Scores of the whole split, computed once from all outputs. The first is the one that chooses."""

    def correctness(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> npt.NDArray[np.float64]:
        """How right the answer to each row is, from 0 to 1; shape (rows,). It tells how sure a score is."""

    def majority(self, train: Dataset, dataset: Dataset) -> dict[str, float]:
        """Scores on ``dataset`` of the best answer that ignores the input, learnt from ``train``."""

    def applied(self) -> Self:
        """The task as it goes with a model that it has trained: nothing of the checkpoint's own head is left."""

    def on(self, data: Any) -> Self:
        """The task on other data."""

    def read_inputs(self, inputs: Sequence[Any], processor: Any) -> tuple[Dataset, list[BadRow]]:
        """What a person hands to ``predict`` (objects, files, folders) as rows with a ``name`` column; what is bad."""

    def answers(
        self, outputs: Outputs, dataset: Dataset, labels: Sequence[str], settings: Settings
    ) -> list[dict[str, Any]]:
        """One plain answer for each row: what ``answer`` names, its probability (``score``), and what else there is.

        Those that came next are in ``scores``, names and probabilities, best first, the answer itself included.
        """


class WindowStream(Protocol):
    """One input that lasts, to be read once from beginning to end."""

    @property
    def seconds(self) -> float:
        """How long it lasts."""

    @property
    def window(self) -> float:
        """Seconds that the model sees at once."""

    @property
    def starts(self) -> npt.NDArray[np.float64]:
        """Where its windows begin, in seconds, ascending."""

    @property
    def silent(self) -> Sequence[bool]:
        """Of the windows that have been read: whether nothing is to be heard in them."""

    @property
    def overview(self) -> Any:
        """All that has been read, coarsely, for a picture; None where it was not asked for."""

    def batches(self, size: int) -> Iterator[Batch]:
        """The windows in order, so many at a time, in memory that does not grow with how long it lasts.

        Raises:
            HftlError: nothing can be read from some second on; the windows before that have been given.
        """


@runtime_checkable
class DetectionTask(Protocol):
    """What a task offers besides whose inputs may last for hours: to say what is in which part of them."""

    @property
    def overlap(self) -> float:
        """Part of a window that the next one has as well."""

    def long_inputs(self, inputs: Sequence[Any]) -> list[tuple[str, Any]]:
        """What a person hands in (objects, files, folders) as names and single inputs; nothing is read of these."""

    def window_stream(
        self, value: Any, processor: Any, shifted: bool = True, columns: tuple[int, int] | None = None
    ) -> WindowStream:
        """One of the inputs, opened: its windows, and an overview for a picture.

        Args:
            value: the input.
            processor: of the model.
            shifted: whether the last window ends with the input; if not, it keeps its place in the grid.
            columns: of the overview: how many make a row, and the most rows; None for no overview.

        Raises:
            HftlError: it cannot be read, and is named.
        """

    def probabilities(self, outputs: Outputs, settings: Settings) -> npt.NDArray[np.float64]:
        """Of the labels, shape (windows, labels)."""

    def predicted(
        self, probabilities: npt.NDArray[np.float64], settings: Settings, threshold: float | None
    ) -> npt.NDArray[np.bool_]:
        """Which labels are the answer, shape (windows, labels).

        Where each excludes the others: the most probable if it is as probable as ``threshold`` (unset, 0.5). Where rows
        have any number: those as probable as their tuned thresholds, or where it is set as ``threshold``.
        """
