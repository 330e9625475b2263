"""Text classification: reviews, sentences, documents to labels."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hftl.errors import HftlError
from hftl.tasks.parts.classification import Classification
from hftl.text import tokens

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.splits import BadRow, Splits
    from hftl.data.wanted import Labelling, Wanted
    from hftl.model.heads import Loaded
    from hftl.text.examples import TextExamples


@dataclass(frozen=True)
class TextClassification(Classification):
    """Texts in a table or in files, one folder a class."""

    name: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    head_lr: ClassVar[float] = 2e-3
    lr: ClassVar[float] = 5e-5
    lr_width: ClassVar[int | None] = 768

    text_column: str | None = None
    """Column of the texts; unset, found by name and type. Named alone, each row has this one text."""
    pair_column: str | None = None
    """Column of the second texts, where each row is a pair (inference, paraphrase). Unset, and the text column too:
    found by the usual names, such as premise and hypothesis, sentence1 and sentence2."""
    pairs: bool | None = None
    """Whether each row is a pair of texts; unset, the columns tell."""
    max_length: int = 256
    """Most tokens of a text that the model sees, special tokens included (at most what the model takes)."""
    truncation: Literal["head", "tail", "head+tail"] = "head"
    """Which part of a longer text is kept; head+tail: a quarter of the tokens from its beginning, the rest from its
    end (Sun et al. 2019). Of a pair the longer text is cut first, each in this way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair_column is not None and self.pairs is False:
            raise HftlError(
                f"pair_column: '{self.pair_column}' is named although pairs is false; leave one of them out"
            )
        if self.pair_column is not None and self.pair_column == self.text_column:
            raise HftlError(f"pair_column: '{self.pair_column}' is the text column too; name another")
        if self.max_length < 8:
            raise HftlError(f"max_length: {self.max_length} is too short; use at least 8 tokens")

    def _wanted(self, labelling: Labelling, seed: int, head: Any) -> Wanted:  # noqa: ARG002
        """Texts, or pairs of them."""
        from hftl.data.wanted import Wanted
        from hftl.text.columns import TEXTS, find_texts

        find = functools.partial(find_texts, text=self.text_column, pair=self.pair_column, pairs=self.pairs)
        return Wanted(TEXTS, (self.text_column, self.pair_column), find, labelling, self.max_rows, seed)

    def _load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """The checkpoint's tokenizer, its ``model_max_length`` and ``truncation_side`` as this task cuts texts."""
        side: Literal["left", "right"] = "left" if self.truncation == "tail" else "right"
        return tokens.load(model, trust_remote_code, self.max_length, side)

    def _suited(self, loaded: Loaded, processor: Any) -> Loaded:
        """The model learns what pads: GPT-2's kind classifies the last token that is no padding."""
        config = loaded.model.config.get_text_config()
        if processor.pad_token_id == processor.eos_token_id:
            config.pad_token_id = processor.pad_token_id
            return replace(loaded, notes=(f"texts are padded with the end-of-text token {processor.pad_token!r}",))
        if config.pad_token_id is None:
            config.pad_token_id = processor.pad_token_id
        return loaded

    def resolved(self, splits: Splits, processor: Any) -> Self:  # noqa: ARG002
        """See ``Task``: whether rows are pairs."""
        return replace(self, pairs="pair" in splits.train.column_names)

    def examples(self, dataset: Dataset, processor: Any, augment: bool) -> TextExamples:  # noqa: ARG002 (texts have no views)
        """See ``Task``."""
        import numpy as np

        from hftl.text.examples import TextExamples, tokenise

        paired = "pair" in dataset.column_names
        tokenised = tokenise(dataset, processor, self.truncation)
        lengths = np.asarray(tokenised["length"], dtype=np.int64)
        notes = []
        if cut := int(np.asarray(tokenised["cut"]).sum()):
            kept = {"head": "beginning", "tail": "end", "head+tail": "beginning and end"}[self.truncation]
            whose = f"the {kept} of each text is used, the longer cut first" if paired else f"their {kept} is used"
            notes.append(
                f"{cut:,} of {len(lengths):,} {'pairs' if paired else 'texts'} are longer than "
                f"{processor.model_max_length} tokens; {whose} (--task.max-length, --task.truncation)"
            )
        if paired and None not in processor("a", "a").sequence_ids()[1:-1]:
            notes.append("this model's tokenizer puts nothing between the two texts of a pair")
        return TextExamples(tokenised, processor, lengths, tuple(notes), self.frequencies(dataset))

    def read_inputs(
        self,
        inputs: Sequence[Any],
        processor: Any,  # noqa: ARG002
    ) -> tuple[Dataset, list[BadRow]]:
        """Texts as strings, .txt files, folders of them, or tables with a column of texts.

        Where the rows are pairs: two strings, one string with ``|||`` between the two, or tables with both columns.
        """
        from datasets import Dataset

        from hftl.data.splits import BadRow

        found = [(row, self._why_bad(row[1:])) for item in inputs for row in self._texts(item)]
        bad = [BadRow("inputs", number, row[0], why) for number, (row, why) in enumerate(found) if why]
        good = [row for row, why in found if not why]
        if not good:
            raise HftlError(f"no text to predict: {bad[0].name!r}: {bad[0].reason}" if bad else "no text to predict")
        columns = ("name", "text", "pair") if self.paired else ("name", "text")
        return Dataset.from_dict(dict(zip(columns, map(list, zip(*good, strict=True)), strict=True))), bad

    @property
    def paired(self) -> bool:
        """Whether rows are known to be pairs."""
        return bool(self.pairs or self.pair_column)

    def _why_bad(self, texts: Sequence[str]) -> str | None:
        """Why these cannot be a row of the run."""
        from hftl.text.columns import BETWEEN

        if self.paired and len(texts) < 2:
            return f"one text, and this run takes two; put {BETWEEN} between them"
        if not self.paired and len(texts) > 1:
            return "two texts, and this run takes one"
        return None if all(text.strip() for text in texts) else "empty text"

    def _texts(self, item: Any) -> list[tuple[str, ...]]:
        """What an input holds: for each row its name and its text or texts."""
        from hftl.text.columns import BETWEEN

        if isinstance(item, tuple | list):
            return [(f" {BETWEEN} ".join(map(str, item)), *map(str, item))]
        rows = self._single_texts(str(item))
        if not self.paired:
            return rows
        return [(name, *(part.strip() for part in texts[0].split(BETWEEN, 1)), *texts[1:]) for name, *texts in rows]

    def _single_texts(self, item: str) -> list[tuple[str, ...]]:
        from hftl.data import sources
        from hftl.text.columns import TEXTS, find_texts

        expanded = os.path.expanduser(item)  # unlike pathlib's, these two take any text, however long
        path = Path(expanded)
        if not os.path.exists(expanded):
            if path.suffix.lower() in {".txt", *sources.TABLE_EXTENSIONS} and " " not in item:
                raise HftlError(f"{item}: no such file")
            return [(item, item)]
        if path.is_dir():
            return [(str(f), f.read_text(encoding="utf-8", errors="replace")) for f in sorted(path.rglob("*.txt"))]
        if path.suffix.lower() in sources.TABLE_EXTENSIONS:
            table = sources.load(item, kind=TEXTS).splits["train"]
            found = find_texts(table, (), text=self.text_column, pair=self.pair_column, pairs=self.paired)
            texts = ([text or "" for text in table[column]] for column in found)
            return [(f"{item}:{number}", *row) for number, row in enumerate(zip(*texts, strict=True))]
        return [(item, path.read_text(encoding="utf-8", errors="replace"))]
