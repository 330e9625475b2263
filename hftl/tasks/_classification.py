"""What image and text classification share: labels, cross-entropy, scores, answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hftl.errors import HftlError
from hftl.phase import Strict
from hftl.tasks.base import Loss, Outputs, Settings, log_softmax

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from hftl.data.batches import Batch
    from hftl.data.sources import Data
    from hftl.data.splits import Splits
    from hftl.heads import Loaded
else:
    Data = str  # what a command line can hold; the library takes datasets objects as well


@dataclass(frozen=True)
class Classification(Strict):
    """Options of every classification task. A task names its input (``kind``) and the model class it wants."""

    kind: ClassVar[Literal["image", "text"]]
    auto_class: ClassVar[str]

    data: Data
    """A folder (one sub-folder a class), a csv, json, jsonl or parquet file or a folder of them, a saved DatasetDict,
    or a Hub name."""
    subset: str | None = None
    """Which configuration of a Hub set that has several."""
    label_column: str | None = None
    """Column of the labels; unset, found by name and type."""
    max_rows: int | None = None
    """For quick tries: at most so many rows of each split, stratified and seeded."""
    streaming: bool = False
    """For data files and Hub sets too large for memory or disk: read them as a stream, and keep only the columns and
    (with max_rows) rows that are used, in the cache folder of datasets. Such a sample is shuffled, not stratified:
    that would take reading all labels first."""
    validation_fraction: float = 0.2
    """Part of the training rows that becomes the validation split where the data have none."""
    bad_rows: Literal["skip", "error"] = "skip"
    """Rows without label or with unreadable input: skipped and listed in the run folder, or an error."""
    lone_labels: Literal["error", "keep"] = "error"
    """A label that the training split alone has."""
    leaks: Literal["note", "drop", "error"] = "note"
    """Training rows that the validation or test split has as well: counted in a note, taken out of train, or an
    error."""
    label_map: dict[str, str] = field(default_factory=dict)
    """Names of the model's labels -> the data's, where the pretrained head is kept."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")
    """Scores to report: accuracy, macro_f1, or the name or path of any other evaluate metric."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise HftlError(
                f"label_smoothing: {self.label_smoothing} is out of range; it must be at least 0 and below 1"
            )
        if not 0 < self.validation_fraction < 1:
            raise HftlError(
                f"validation_fraction: {self.validation_fraction} is out of range; it must be between 0 and 1"
            )
        if self.max_rows is not None and self.max_rows < 2:
            raise HftlError(f"max_rows: {self.max_rows} is too few; use at least 2")
        if not self.metrics:
            raise HftlError("metrics: name at least one, such as accuracy")

    def load_data(self, seed: int, model: str, keep_head: bool, trust_remote_code: bool, cut: bool = True) -> Splits:
        """See ``Task``."""
        from hftl import heads
        from hftl.data import sources, splits, streams

        if self.label_map and not keep_head:
            raise HftlError(
                "--task.label-map: it names labels of the pretrained head; add --keep-head, or leave it out"
            )
        known = heads.own_labels(self.auto_class, model, self.label_map, trust_remote_code) if keep_head else None
        choice: dict[str, Any] = {
            "kind": self.kind,
            "input_column": getattr(self, f"{self.kind}_column"),
            "pair_column": getattr(self, "pair_column", None),
            "pairs": getattr(self, "pairs", False),
            "label_column": self.label_column,
            "max_rows": self.max_rows,
            "seed": seed,
        }
        streaming = streams.Wanted(**choice) if self.streaming else None
        return splits.prepare(
            sources.load(self.data, kind=self.kind, subset=self.subset, streaming=streaming),
            **choice,
            validation_fraction=self.validation_fraction if cut else 0.0,
            bad_rows=self.bad_rows,
            lone_labels=self.lone_labels,
            known_labels=known,
            leaks=self.leaks if cut else None,
        )

    def resolved(self, splits: Splits) -> Self:  # noqa: ARG002 (no modality but text leaves anything to the data)
        """See ``Task``."""
        return self

    def load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """See ``Task``. That the model is there and fits the task is seen first: it is the likelier mistake."""
        from hftl import heads

        heads.config_of(self.auto_class, model, trust_remote_code)
        return self._load_processor(model, trust_remote_code)

    def _load_processor(self, model: str, trust_remote_code: bool) -> Any:
        raise NotImplementedError

    def load_model(
        self,
        model: str,
        labels: Sequence[str],
        processor: Any,  # noqa: ARG002 (no modality but text has to tell the model about it)
        keep_head: bool,
        head_dropout: float,
        trust_remote_code: bool,
    ) -> Loaded:
        """See ``Task``."""
        from hftl import heads

        return heads.load(self.auto_class, model, labels, keep_head, head_dropout, trust_remote_code)

    def objective(self, train: Dataset) -> Loss:  # noqa: ARG002 (plain cross-entropy needs to know nothing)
        """Cross-entropy of each row, shape (rows,)."""
        from torch.nn.functional import cross_entropy

        def loss(outputs: Any, batch: Batch) -> torch.Tensor:
            if batch.targets is None:
                raise HftlError("loss: the rows have no labels")
            return cross_entropy(
                outputs.logits.float(), batch.targets, label_smoothing=self.label_smoothing, reduction="none"
            )

        return loss

    def reduce(self, outputs: Any) -> dict[str, torch.Tensor]:
        """The logits, shape (rows, classes), float32."""
        return {"logits": outputs.logits.float()}

    def tune(self, outputs: Outputs, dataset: Dataset) -> dict[str, Any]:  # noqa: ARG002
        """Nothing: the answer is the most probable label."""
        return {}

    def score(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> dict[str, float]:  # noqa: ARG002
        """The metrics of the most probable labels, and ``loss``, the mean cross-entropy without smoothing."""
        import numpy as np

        from hftl import metrics

        labels = np.asarray(dataset["label"])
        logits = outputs["logits"]
        loss = -log_softmax(logits)[np.arange(len(labels)), labels].mean()
        return {**metrics.score(self.metrics, logits.argmax(axis=1), labels), "loss": float(loss)}

    def majority(self, train: Dataset, dataset: Dataset) -> dict[str, float]:
        """Scores of always answering the commonest training label."""
        import numpy as np

        from hftl import metrics

        labels = np.asarray(dataset["label"])
        commonest = np.bincount(np.asarray(train["label"])).argmax()
        return metrics.score(self.metrics, np.full_like(labels, commonest), labels)

    def answers(
        self,
        outputs: Outputs,
        labels: Sequence[str],
        settings: Settings,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Most probable label, its probability (``score``), and the probabilities of all (``scores``)."""
        import numpy as np

        found = []
        for row in np.exp(log_softmax(outputs["logits"])):
            scores: dict[str, float] = {}
            for index in np.argsort(-row):
                scores.setdefault(labels[index], float(row[index]))  # two classes may have one name (ImageNet's crane)
            label, score = next(iter(scores.items()))
            found.append({"label": label, "score": score, "scores": scores})
        return found
