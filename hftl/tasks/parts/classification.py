"""What image and text classification share: labels, losses, scores, answers; one label a row, or any number."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hftl.errors import HftlError
from hftl.probabilities import log_softmax, sigmoid
from hftl.recipe.phase import Strict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from datasets import Dataset

    from hftl.data.batches import Batch, Frequencies, Loss, Outputs, Settings
    from hftl.data.sources import Data
    from hftl.data.splits import Splits
    from hftl.data.wanted import Labelling, Wanted
    from hftl.model.heads import Loaded
else:
    Data = str  # what a command line can hold; the library takes datasets objects as well


ONE_LABEL, ANY_LABELS = "single_label_classification", "multi_label_classification"
"""The kinds of problem, as configurations of transformers name them: by softmax, or each label by its sigmoid."""
METRICS = {ONE_LABEL: ("accuracy", "macro_f1"), ANY_LABELS: ("mAP", "micro_f1", "macro_f1")}
LEAST = 0.5
"""The most probable label of a part of something long is no answer where it is less probable than this."""
UNEVEN = 10
"""So many times more rows of one label than of another are worth a note."""


@dataclass(frozen=True)
class Classification(Strict):
    """Options of every classification task. A task says what it wants of the data, and the model class it needs.

    Whether rows have one label or any number of them (multi-label) is a property of the data: of lists, of cells that
    are split, or of several label columns.
    """

    auto_class: ClassVar[str]
    answer: ClassVar[str] = "label"
    majority_is: ClassVar[str] = "always answers with the commonest training label"
    fields: ClassVar[tuple[str, ...]] = ()
    usual_metrics: ClassVar[Mapping[str, tuple[str, ...]]] = METRICS
    lr_width: ClassVar[int | None] = None
    tuned: ClassVar[tuple[str, ...]] = ("thresholds",)
    """Settings of a model that are of its labels: a new head has none of them."""

    data: Data
    """A folder (one sub-folder a class), a csv, json, jsonl or parquet file or a folder of them, a saved DatasetDict,
    or a Hub name."""
    subset: str | None = None
    """Which configuration of a Hub set that has several."""
    label_column: str | None = None
    """Column of the labels; unset, found by name and type. Where it holds lists, a row has any number of labels."""
    label_columns: tuple[str, ...] = ()
    """Instead of one label column: several of 0 and 1 (or false and true), one for each label, with its name."""
    label_separator: str | None = None
    """What stands between the labels where a cell of the label column has several, such as |."""
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
    balance: Literal["none", "weights", "sampler"] = "none"
    """Of labels that are not equally common. weights: the loss of a row counts the more, the rarer its label (with any
    number of labels a row: what has a label counts as much as what has not, at most 100 times). sampler: rows are
    drawn that often instead (by the rarest of their labels). Scores on validation stay plain."""
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    """focal: rows that are right already count less (Lin et al. 2017)."""
    focal_gamma: float = 2.0
    """How much less: by (1 - p) to this power, p the probability of what is right."""
    logit_adjustment: float = 0.0
    """So many times the logarithm of each label's share of the rows is added to its logit in training, so that without
    it rare labels are not at a disadvantage (Menon et al. 2021, who use 1)."""
    metrics: tuple[str, ...] = ()
    """Scores to report, the first chooses; none named, accuracy and macro_f1, or with any number of labels a row mAP,
    micro_f1 and macro_f1 (of recordings roc_auc, too). Or the name or path of any other evaluate metric."""

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
        if self.label_columns and (self.label_column or self.label_separator):
            raise HftlError("label_columns: they stand instead of label_column and label_separator; leave those out")
        if len(set(self.label_columns)) < len(self.label_columns):
            raise HftlError(f"label_columns: one of {', '.join(self.label_columns)} is named twice; name each once")
        if self.label_separator == "":
            raise HftlError("label_separator: it is empty; name what stands between two labels, such as |")
        if self.focal_gamma < 0:
            raise HftlError(f"focal_gamma: {self.focal_gamma} is out of range; it must be at least 0")
        if self.logit_adjustment < 0:
            raise HftlError(f"logit_adjustment: {self.logit_adjustment} is out of range; it must be at least 0")
        if self.logit_adjustment and self.balance != "none":
            raise HftlError(
                f"logit_adjustment and balance {self.balance}: each makes up for rare labels, both together twice "
                "over; leave one of them out"
            )

    @classmethod
    def know_models(cls) -> None:
        """See ``Task``: there are none."""

    def load_data(self, seed: int, model: str, keep_head: bool, trust_remote_code: bool, cut: bool = True) -> Splits:
        """See ``Task``."""
        from hftl.data import sources, splits
        from hftl.data.wanted import Labelling
        from hftl.model import heads

        self.know_models()
        if self.label_map and not keep_head:
            raise HftlError(
                "--task.label-map: it names labels of the pretrained head; add --keep-head, or leave it out"
            )
        head = heads.config_of(self.auto_class, model, trust_remote_code) if keep_head else None
        known = heads.own_labels(self.auto_class, model, self.label_map, trust_remote_code) if keep_head else None
        wanted = self._wanted(Labelling(self.label_column, self.label_columns, self.label_separator), seed, head)
        fraction, leaks = (self.validation_fraction, self.leaks) if cut else (0.0, None)
        found = splits.prepare(
            sources.load(self.data, kind=wanted.kind, subset=self.subset, streaming=wanted if self.streaming else None),
            wanted,
            splits.Rules(fraction, self.bad_rows, self.lone_labels, known, leaks),
        )
        # With a head that is kept there may be nothing to train, as when a run is evaluated.
        return found if keep_head else replace(found, notes=(*found.notes, *self._uneven(found)))

    def _wanted(self, labelling: Labelling, seed: int, head: Any) -> Wanted:
        """What to make of the data; ``head`` is the configuration of a model whose head is kept, else None."""
        raise NotImplementedError

    def _uneven(self, splits: Splits) -> list[str]:
        """A note where some label has many more training rows than another, and nothing makes up for it."""
        import numpy as np

        from hftl.data.labels import read_targets

        if self.balance != "none" or self.logit_adjustment:
            return []
        counts = _counts(read_targets(splits.train), len(splits.labels))
        most, least = counts.argmax(), np.where(counts > 0, counts, counts.max()).argmin()
        if counts[most] < UNEVEN * counts[least]:
            return []
        return [
            f"train: {counts[most]:,} rows have {splits.labels[most]!r}, {counts[least]:,} have "
            f"{splits.labels[least]!r}; --task.balance weights (or sampler) makes up for it"
        ]

    def resolved(self, splits: Splits, processor: Any) -> Self:  # noqa: ARG002 (images leave nothing to the data)
        """See ``Task``."""
        return self

    def load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """See ``Task``. That the model is there and fits the task is seen first: it is the likelier mistake."""
        from hftl.model import heads

        self.know_models()
        heads.config_of(self.auto_class, model, trust_remote_code)
        return self._load_processor(model, trust_remote_code)

    def _load_processor(self, model: str, trust_remote_code: bool) -> Any:
        raise NotImplementedError

    def load_model(
        self,
        model: str,
        labels: Sequence[str],
        processor: Any,
        keep_head: bool,
        head_dropout: float,
        trust_remote_code: bool,
    ) -> Loaded:
        """See ``Task``."""
        from hftl.model import heads

        self.know_models()
        loaded = heads.load(self.auto_class, model, labels, keep_head, head_dropout, trust_remote_code)
        if not keep_head:
            for name in self.tuned:
                vars(loaded.model.config).pop(name, None)  # of the labels of another run
        return self._suited(loaded, processor)

    def _suited(self, loaded: Loaded, processor: Any) -> Loaded:  # noqa: ARG002
        """The model, told what it has to know of its processor."""
        return loaded

    def objective(self, train: Dataset) -> Loss:
        """Cross-entropy of each row, shape (rows,), by softmax; by sigmoid where rows have any number of labels.

        Targets are what ``targets_of`` gives, or for single labels too their probabilities, float of shape (rows,
        classes).

        Raises:
            HftlError: logit adjustment where rows have any number of labels.
        """
        from hftl.tasks.parts import losses

        targets = self._trained_targets(train)
        multi_label = targets.ndim == 2
        if multi_label and self.logit_adjustment:
            raise HftlError(
                "logit_adjustment: it is for one label a row, and these rows have any number; use --task.balance"
            )
        function = losses.binary_cross_entropy if multi_label else losses.cross_entropy
        gamma = self.focal_gamma if self.loss == "focal" else 0.0

        @functools.cache  # made once a device: to copy them there in every step would wait for it
        def constants(classes: int, device: torch.device) -> tuple[torch.Tensor | None, torch.Tensor | None]:
            import torch

            counts = _counts(targets, classes)
            weights = losses.positive_weights(counts, len(targets)) if multi_label else losses.class_weights(counts)
            shift = self.logit_adjustment * losses.log_prior(counts)
            chosen = weights if self.balance == "weights" else None, shift if self.logit_adjustment else None
            first, second = (None if c is None else torch.tensor(c, dtype=torch.float32, device=device) for c in chosen)
            return first, second

        def loss(outputs: Any, batch: Batch) -> torch.Tensor:
            import torch

            if batch.targets is None:
                raise HftlError("loss: the rows have no labels")
            logits = outputs.logits.to(torch.promote_types(outputs.logits.dtype, torch.float32))
            weights, shift = constants(logits.shape[1], logits.device)
            logits = logits if shift is None else logits + shift
            return function(logits, batch.targets, self.label_smoothing, gamma, weights)

        return loss

    def frequencies(self, dataset: Dataset) -> Frequencies | None:
        """How often training draws each example, shape (examples,); None: each once an epoch."""
        from hftl.data.sampling import even_frequencies

        there = self.balance == "sampler" and "label" in dataset.features
        return even_frequencies(self._trained_targets(dataset)) if there else None

    def _trained_targets(self, dataset: Dataset) -> npt.NDArray[Any]:
        """Labels of the examples that training goes through, in their order: here the rows."""
        from hftl.data.labels import read_targets

        return read_targets(dataset)

    def reduce(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """The logits, shape (rows, classes), float32."""
        return {"logits": outputs.logits.float()}

    def tune(self, outputs: Outputs, dataset: Dataset) -> dict[str, Any]:
        """``problem_type``, and where rows have any number of labels the ``thresholds`` of their probabilities."""
        from hftl.data.labels import read_targets
        from hftl.tasks.parts.thresholds import tuned_thresholds

        targets = read_targets(dataset)
        if targets.ndim == 1:
            return {"problem_type": ONE_LABEL}
        thresholds = tuned_thresholds(sigmoid(outputs["logits"]), targets)
        return {"problem_type": ANY_LABELS, "thresholds": thresholds.tolist()}

    def score(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> dict[str, float]:
        """The metrics of the most probable labels, or of all that reach their thresholds; and ``loss``.

        The loss is the mean cross-entropy, without anything that is for training alone.

        Raises:
            HftlError: the data have one label a row and the model any number, or the other way round.
        """
        import numpy as np

        from hftl import metrics
        from hftl.data.labels import read_targets

        labels, logits = read_targets(dataset), outputs["logits"]
        multi_label = is_multi_label(settings)
        if multi_label != (labels.ndim == 2):
            has, gives = ("one label", "any number") if multi_label else ("any number of labels", "one")
            raise HftlError(f"the data have {has} a row, and the model gives {gives}; evaluate it on data of its kind")
        if multi_label:
            probabilities = sigmoid(logits)
            given = probabilities >= settings["thresholds"]
            found = metrics.score(self._metrics(ANY_LABELS), given, labels, probabilities)
            loss = (np.logaddexp(0, logits.astype(np.float64)) - logits * labels).mean()
        else:
            found = metrics.score(self._metrics(ONE_LABEL), logits.argmax(axis=1), labels)
            loss = -log_softmax(logits)[np.arange(len(labels)), labels].mean()
        return {**found, "loss": float(loss)}

    def correctness(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> npt.NDArray[np.float64]:
        """Whether the label of each row is right, shape (rows,); where it has any number of labels, the F1 of these."""
        import numpy as np

        from hftl.data.labels import read_targets

        labels, logits = read_targets(dataset), outputs["logits"]
        if labels.ndim == 1:
            return np.asarray(logits.argmax(axis=1) == labels, dtype=np.float64)
        given = sigmoid(logits) >= settings["thresholds"]
        sizes = given.sum(axis=1) + labels.sum(axis=1)
        return np.where(sizes == 0, 1.0, 2 * (given & labels).sum(axis=1) / np.maximum(sizes, 1))

    def _metrics(self, problem: str) -> tuple[str, ...]:
        return self.metrics or self.usual_metrics[problem]

    def majority(self, train: Dataset, dataset: Dataset) -> dict[str, float]:
        """Scores of always answering the commonest training label.

        Where rows have any number: the commonest labels, as many as have the best micro F1 on the training rows, and
        each label's share of them for its probability.
        """
        import numpy as np

        from hftl import metrics
        from hftl.data.labels import read_targets
        from hftl.tasks.parts.thresholds import commonest_labels

        seen, labels = read_targets(train), read_targets(dataset)
        if labels.ndim == 1:
            commonest = np.full_like(labels, np.bincount(seen).argmax())
            return metrics.score(self._metrics(ONE_LABEL), commonest, labels)
        given, shares = np.tile(commonest_labels(seen), (len(labels), 1)), np.tile(seen.mean(axis=0), (len(labels), 1))
        return metrics.score(self._metrics(ANY_LABELS), given, labels, shares)

    def applied(self) -> Self:
        """See ``Task``: the model's labels are the data's."""
        return replace(self, label_map={})

    def on(self, data: Any) -> Self:
        """See ``Task``: other data may lack a label."""
        return replace(self, data=data, subset=None, lone_labels="keep")

    def probabilities(self, outputs: Outputs, settings: Settings) -> npt.NDArray[np.float64]:
        """Of all labels, shape (rows, labels): by softmax, or each by its sigmoid where rows have any number."""
        import numpy as np

        logits = outputs["logits"]
        return sigmoid(logits) if is_multi_label(settings) else np.exp(log_softmax(logits))

    def predicted(
        self, probabilities: npt.NDArray[np.float64], settings: Settings, threshold: float | None
    ) -> npt.NDArray[np.bool_]:
        """See ``DetectionTask``."""
        import numpy as np

        if is_multi_label(settings):
            return np.asarray(probabilities >= (settings["thresholds"] if threshold is None else threshold))
        most = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
        return np.asarray(most & (probabilities >= (LEAST if threshold is None else threshold)))

    def answers(
        self,
        outputs: Outputs,
        dataset: Dataset,  # noqa: ARG002
        labels: Sequence[str],
        settings: Settings,
    ) -> list[dict[str, Any]]:
        """Most probable label, its probability (``score``), and the probabilities of all (``scores``), best first.

        Where rows have any number of labels: first ``labels``, those whose probability reaches their threshold.
        """
        import numpy as np

        multi_label = is_multi_label(settings)
        found = []
        for row in self.probabilities(outputs, settings):
            scores: dict[str, float] = {}
            for index in np.argsort(-row):
                scores.setdefault(labels[index], float(row[index]))  # two classes may have one name (ImageNet's crane)
            label, score = next(iter(scores.items()))
            answer: dict[str, Any] = {"label": label, "score": score, "scores": scores}
            if multi_label:
                given = {label for label, over in zip(labels, row >= settings["thresholds"], strict=True) if over}
                answer = {"labels": [label for label in scores if label in given], **answer}
            found.append(answer)
        return found


def is_multi_label(settings: Settings) -> bool:
    """Whether a model with these settings gives rows any number of labels."""
    return bool(settings.get("problem_type") == ANY_LABELS)


def _counts(targets: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Rows of each label, shape (classes,)."""
    import numpy as np

    return targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=classes)
