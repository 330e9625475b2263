"""Extractive question answering with any model of ``AutoModelForQuestionAnswering``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hftl.errors import HftlError
from hftl.recipe.phase import Strict
from hftl.tasks.base import NOTHING
from hftl.text import tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from datasets import Dataset

    from hftl.data.batches import Batch, Loss, Outputs, Settings
    from hftl.data.sources import Data
    from hftl.data.splits import BadRow, Splits
    from hftl.model.heads import Loaded
    from hftl.text.windows import QuestionExamples
else:
    Data = str  # what a command line can hold; the library takes datasets objects as well

OUTPUTS = ("start", "end")
"""What a model gives for each token: how well an answer starts there, and how well one ends there."""
THRESHOLD = "no_answer_threshold"
"""In the model's configuration: by how much no answer must have more than the best span to be given. None: never."""
FORCED = ("forced_f1", "forced_exact_match")
"""Scores of the questions that have an answer, if the model always has to give one."""
SHOWN = 20
"""Spans of a question that an answer lists at most."""


@dataclass(frozen=True)
class QuestionAnswering(Strict):
    """Questions on texts, each answered by a part of its text, or not at all."""

    name: ClassVar[str] = "question-answering"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    head_lr: ClassVar[float] = 2e-3
    lr: ClassVar[float] = 1e-4
    lr_width: ClassVar[int | None] = 768
    answer: ClassVar[str] = "answer"
    majority_is: ClassVar[str] = "never gives an answer"
    fields: ClassVar[tuple[str, ...]] = ("question", "context")

    data: Data
    """A SQuAD file (json, 1.1 or 2.0), a csv, json, jsonl or parquet file with columns question, context and answers,
    a folder of such files named by split, a saved DatasetDict, or a Hub name."""
    subset: str | None = None
    """Which configuration of a Hub set that has several."""
    question_column: str | None = None
    """Column of the questions; unset, found by name."""
    context_column: str | None = None
    """Column of the texts that have the answers; unset, found by name."""
    answers_column: str | None = None
    """Column of the answers: text and answer_start as SQuAD has them, or plain texts; unset, found by name. Where it is
    empty, the question has no answer."""
    max_rows: int | None = None
    """For quick tries: at most so many questions of each split, with and without an answer in their proportions;
    seeded."""
    validation_fraction: float = 0.2
    """Part of the training questions that becomes the validation split where the data have none; no text is in both."""
    bad_rows: Literal["skip", "error"] = "skip"
    """Questions that cannot be used, and answers that are not where they should be: skipped and listed in the run
    folder, or an error."""
    leaks: Literal["note", "drop", "error"] = "note"
    """Training questions that the validation or test split has as well, on the same text: counted in a note, taken out
    of train, or an error."""
    max_length: int = 384
    """Most tokens of a window: the question, a part of its text, and special tokens (at most what the model takes)."""
    doc_stride: int | None = None
    """Tokens of the text that two windows following each other share; unset, a third of max_length (128 of 384)."""
    max_answer_length: int = 30
    """Most tokens of an answer that is given."""
    n_best: int = 20
    """So many spans of each window are kept, the best ones."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise HftlError(
                f"validation_fraction: {self.validation_fraction} is out of range; it must be between 0 and 1"
            )
        if self.max_rows is not None and self.max_rows < 2:
            raise HftlError(f"max_rows: {self.max_rows} is too few; use at least 2")
        if self.doc_stride is not None and not 0 <= self.doc_stride <= self.max_length // 2:
            raise HftlError(
                f"doc_stride: {self.doc_stride} is out of range; windows of {self.max_length} tokens (max_length) may "
                f"share at most half of them"
            )
        for name in ("max_answer_length", "n_best"):
            if getattr(self, name) < 1:
                raise HftlError(f"{name}: {getattr(self, name)} is too few; use at least 1")

    @classmethod
    def know_models(cls) -> None:
        """See ``Task``: there are none."""

    def load_data(
        self,
        seed: int,
        model: str,
        keep_head: bool,  # noqa: ARG002 (there are no labels whose order could be the head's)
        trust_remote_code: bool,
        cut: bool = True,
    ) -> Splits:
        """See ``Task``."""
        from hftl.data import sources
        from hftl.data.splits import Rules
        from hftl.text import questions
        from hftl.text.windows import too_long

        processor = self.load_processor(model, trust_remote_code)
        return questions.prepare(
            sources.load(self.data, kind=questions.QUESTIONS, subset=self.subset),
            (self.question_column, self.context_column, self.answers_column),
            Rules(self.validation_fraction if cut else 0.0, self.bad_rows, leaks=self.leaks if cut else None),
            self.max_rows,
            seed,
            lambda texts: too_long(texts, processor, self._stride(processor)),
        )

    def _stride(self, processor: Any) -> int:
        """What windows share; the model may take shorter ones than were asked for."""
        longest: int = processor.model_max_length
        return longest // 3 if self.doc_stride is None else min(self.doc_stride, longest // 2)

    def resolved(self, splits: Splits, processor: Any) -> Self:  # noqa: ARG002 (nothing is left to the data)
        """See ``Task``."""
        return self

    def load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """The checkpoint's tokenizer, its ``model_max_length`` the length of a window."""
        from hftl.model import heads

        heads.config_of(self.auto_class, model, trust_remote_code)
        return tokens.load(model, trust_remote_code, self.max_length)

    def load_model(
        self,
        model: str,
        labels: Sequence[str],  # noqa: ARG002 (there are none)
        processor: Any,  # noqa: ARG002
        keep_head: bool,
        head_dropout: float,
        trust_remote_code: bool,
    ) -> Loaded:
        """See ``Task``."""
        from hftl.model import heads

        loaded = heads.load(self.auto_class, model, OUTPUTS, keep_head, head_dropout, trust_remote_code)
        if not keep_head:
            vars(loaded.model.config).pop(THRESHOLD, None)  # of another run
        return loaded

    def examples(self, dataset: Dataset, processor: Any, augment: bool) -> QuestionExamples:  # noqa: ARG002
        """The windows of the questions. See ``Task``."""
        import numpy as np

        from hftl.text.windows import QuestionExamples, cut_windows

        windows = cut_windows(dataset, processor, self._stride(processor))
        lengths = np.asarray(windows["length"][:], dtype=np.int64)
        notes = []
        if len(windows) > len(dataset):
            notes.append(
                f"{len(dataset):,} questions in {len(windows):,} windows of at most {processor.model_max_length} tokens"
            )
        if "answers" in dataset.column_names and len(windows):
            whole = np.asarray(windows["whole"][:], dtype=bool)
            seen = np.zeros(len(dataset), dtype=bool)
            seen[np.asarray(windows["question_row"][:])[whole]] = True
            has = np.array([len(gold) > 0 for gold in _gold(dataset)])
            if lost := int((has & ~seen).sum()):
                notes.append(
                    f"the answers of {lost:,} questions are in no window as a whole; raise --task.doc-stride, or "
                    "--task.max-length"
                )
        owners = np.asarray(windows["question_row"][:], dtype=np.int64)
        return QuestionExamples(windows, processor, lengths, tuple(notes), owners=owners)

    def objective(self, train: Dataset) -> Loss:  # noqa: ARG002
        """Cross-entropy of the answer's first and last token, their mean, shape (windows,).

        Among the tokens of the text and the one that stands for no answer: what pads does not matter.
        """
        from hftl.text.spans import span_loss

        return span_loss

    def reduce(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The best spans of each window (see ``candidates``), ``question``, and ``loss`` where answers are known."""
        from hftl.text.spans import candidates, span_loss

        start, end = outputs.start_logits.float(), outputs.end_logits.float()
        found = candidates(start, end, batch.extras, self.n_best, self.max_answer_length)
        known = {} if batch.targets is None else {"loss": span_loss(outputs, batch)}
        return {**found, "question": batch.extras["question"], **known}

    def tune(self, outputs: Outputs, dataset: Dataset) -> dict[str, Any]:
        """The threshold of no answer that has the highest F1; None where every question has an answer."""
        from hftl.text.spans import best, threshold

        gold = _gold(dataset)
        if all(gold):
            return {THRESHOLD: None}
        found = best(outputs, len(dataset))
        answered = _f1(_answers(dataset, found.begin, found.end), gold)
        return {THRESHOLD: threshold(found.margin, answered, _f1([""] * len(gold), gold))}

    def score(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> dict[str, float]:
        """F1 and exact match (see ``text.squad.squad_scores``); and ``loss``, the mean of the windows'.

        Where the model may give no answer, ``forced_f1`` and ``forced_exact_match`` are those of the questions that
        have one, if it always has to answer: SQuAD 1.1's way.
        """
        import numpy as np

        from hftl.text.squad import squad_scores

        gold, (spans, given) = _gold(dataset), _given(outputs, dataset, settings)
        scores = squad_scores(given, gold)
        if settings.get(THRESHOLD) is not None and any(gold):
            forced = squad_scores(*zip(*(pair for pair in zip(spans, gold, strict=True) if pair[1]), strict=True))
            scores |= {name: forced[name.removeprefix("forced_")] for name in FORCED}
        return {**scores, **({"loss": float(np.mean(outputs["loss"]))} if "loss" in outputs else {})}

    def correctness(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> npt.NDArray[np.float64]:
        """See ``Task``: the F1 of each answer."""
        return _f1(_given(outputs, dataset, settings)[1], _gold(dataset))

    def majority(self, train: Dataset, dataset: Dataset) -> dict[str, float]:  # noqa: ARG002
        """Scores of never giving an answer."""
        from hftl.text.squad import squad_scores

        gold = _gold(dataset)
        forced = {} if all(gold) or not any(gold) else dict.fromkeys(FORCED, 0.0)
        return {**squad_scores([""] * len(dataset), gold), **forced}

    def applied(self) -> Self:
        """See ``Task``."""
        return self

    def on(self, data: Any) -> Self:
        """See ``Task``."""
        return replace(self, data=data, subset=None)

    def read_inputs(self, inputs: Sequence[Any], processor: Any) -> tuple[Dataset, list[BadRow]]:
        """Pairs of a question and its text, dicts of them, or tables of both."""
        from datasets import Dataset

        from hftl.data.splits import BadRow
        from hftl.text.windows import too_long

        found = [row for item in inputs for row in self._questions(item)]
        reasons = too_long([question for _, question, _ in found], processor, self._stride(processor))
        good, bad = [], []
        for number, ((name, question, context), reason) in enumerate(zip(found, reasons, strict=True)):
            if why := "no question" if not question.strip() else "no context" if not context.strip() else reason:
                bad.append(BadRow("inputs", number, name[:60], why))
            else:
                good.append((name, question, context))
        if not good:
            raise HftlError(
                f"no question to answer: {bad[0].name!r}: {bad[0].reason}" if bad else "no question to answer"
            )
        names, questions, contexts = map(list, zip(*good, strict=True))
        return Dataset.from_dict({"name": names, "question": questions, "context": contexts}), bad

    def _questions(self, item: Any) -> list[tuple[str, str, str]]:
        """What an input holds: for each row its name, its question and its text."""
        if isinstance(item, dict):
            if missing := [field for field in self.fields if item.get(field) is None]:
                raise HftlError(f"no {missing[0]}; give a question and its context")
            return [(str(item["question"]), str(item["question"]), str(item["context"]))]
        if isinstance(item, tuple | list) and len(item) == 2:
            return [(str(item[0]), str(item[0]), str(item[1]))]
        from hftl.data import sources
        from hftl.text import questions

        if Path(str(item)).suffix.lower() not in sources.TABLE_EXTENSIONS:
            raise HftlError(
                f"{str(item)[:60]!r}: a question needs its text; give --question and --context, or a table "
                f"({', '.join(sources.TABLE_EXTENSIONS)}) of both"
            )
        table = sources.load(str(item), kind=questions.QUESTIONS).splits["train"]
        rows = questions.rows_of(table, (self.question_column, self.context_column, None))
        return [(question or f"{item}:{number}", question, context) for number, (question, context) in enumerate(rows)]

    def answers(
        self,
        outputs: Outputs,
        dataset: Dataset,
        labels: Sequence[str],  # noqa: ARG002
        settings: Settings,
    ) -> list[dict[str, Any]]:
        """``answer`` (empty: there is none), ``score`` (its probability), ``start`` and ``end`` in the text.

        Probabilities are shares of exp(score) over all spans of all windows and no answer. ``scores`` are those of the
        best texts, of each its best span's.
        """
        import numpy as np

        from hftl.text.spans import best, by_question, ranked

        overall, limit, found = best(outputs, len(dataset)), settings.get(THRESHOLD), []
        windows = by_question(outputs, len(dataset))
        for row, context in enumerate(dataset["context"]):
            mass = float(overall.mass[row])
            nothing = float(np.exp(overall.null[row] - mass))
            spans = ranked(outputs, windows[row], mass, SHOWN)
            scores: dict[str, float] = {}
            for begin, end, probability in spans:
                scores.setdefault(context[begin:end], probability)
            answer = {"answer": "", "start": 0, "end": 0, "score": nothing}
            if spans and (limit is None or overall.margin[row] <= limit):
                begin, end, probability = spans[0]
                answer = {"answer": context[begin:end], "start": begin, "end": end, "score": probability}
            if limit is not None or not spans:
                scores[NOTHING] = nothing
            found.append({**answer, "scores": dict(sorted(scores.items(), key=lambda pair: -pair[1]))})
        return found


def _given(outputs: Outputs, dataset: Dataset, settings: Settings) -> tuple[list[str], list[str]]:
    """The best span of each question, and what is given: that, or nothing where its threshold says so."""
    from hftl.text.spans import best

    found = best(outputs, len(dataset))
    spans = _answers(dataset, found.begin, found.end)
    limit = math.inf if settings.get(THRESHOLD) is None else settings[THRESHOLD]
    return spans, ["" if margin > limit else span for span, margin in zip(spans, found.margin.tolist(), strict=True)]


def _gold(dataset: Dataset) -> list[list[str]]:
    return [answers["text"] for answers in dataset["answers"]]


def _answers(dataset: Dataset, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[str]:
    spans = zip(dataset["context"], begins.tolist(), ends.tolist(), strict=True)
    return [context[max(begin, 0) : max(end, 0)] for context, begin, end in spans]


def _f1(given: Sequence[str], gold: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    import numpy as np

    from hftl.text.squad import compare_answers

    return np.array([compare_answers(*pair)[0] for pair in zip(given, gold, strict=True)])
