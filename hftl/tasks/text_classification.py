"""Text classification: reviews, sentences, documents to labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hftl.errors import HftlError
from hftl.quiet import quiet_datasets
from hftl.tasks.parts.classification import Classification, targets_of
from hftl.text import tokens

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.batches import Batch
    from hftl.data.splits import BadRow, Splits
    from hftl.model.heads import Loaded

CUT_VERSION = 1
"""To be raised whenever ``tokenise`` or ``cut`` give something else: tokens made before are not taken then."""
BETWEEN = "|||"
"""What separates the two texts of a pair that is given as one string."""
HEAD_SHARE = 0.25
"""Part of the tokens that head+tail truncation takes from the beginning (128 of 510 in Sun et al. 2019)."""


@dataclass(frozen=True)
class TextClassification(Classification):
    """Texts in a table or in files, one folder a class."""

    name: ClassVar[str] = "text-classification"
    kind: ClassVar[Literal["image", "audio", "text"]] = "text"
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
        if self.paired and len(texts) < 2:
            return f"one text, and this run takes two; put {BETWEEN} between them"
        if not self.paired and len(texts) > 1:
            return "two texts, and this run takes one"
        return None if all(text.strip() for text in texts) else "empty text"

    def _texts(self, item: Any) -> list[tuple[str, ...]]:
        """What an input holds: for each row its name and its text or texts."""
        if isinstance(item, tuple | list):
            return [(f" {BETWEEN} ".join(map(str, item)), *map(str, item))]
        rows = self._single_texts(str(item))
        if not self.paired:
            return rows
        return [(name, *(part.strip() for part in texts[0].split(BETWEEN, 1)), *texts[1:]) for name, *texts in rows]

    def _single_texts(self, item: str) -> list[tuple[str, ...]]:
        from hftl.data import columns, sources

        expanded = os.path.expanduser(item)  # unlike pathlib's, these two take any text, however long
        path = Path(expanded)
        if not os.path.exists(expanded):
            if path.suffix.lower() in {".txt", *sources.TABLE_EXTENSIONS} and " " not in item:
                raise HftlError(f"{item}: no such file")
            return [(item, item)]
        if path.is_dir():
            return [(str(f), f.read_text(encoding="utf-8", errors="replace")) for f in sorted(path.rglob("*.txt"))]
        if path.suffix.lower() in sources.TABLE_EXTENSIONS:
            table = sources.load(item, kind="text").splits["train"]
            found = columns.find_texts(table, self.text_column, self.pair_column, self.paired, ())
            texts = ([text or "" for text in table[column]] for column in found if column)
            return [(f"{item}:{number}", *row) for number, row in enumerate(zip(*texts, strict=True))]
        return [(item, path.read_text(encoding="utf-8", errors="replace"))]


class TextExamples(tokens.TokenExamples):
    """Tokenised rows as batches of ``input_ids`` and ``attention_mask``, shape (rows, positions).

    Pairs have ``token_type_ids`` too where the tokenizer gives them to its model: which text a token is of.
    """

    columns: ClassVar[tuple[str, ...]] = ("input_ids", "token_type_ids", "label")

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        import torch

        from hftl.data.batches import Batch

        rows = self.dataset[indices]
        return Batch(tokens.padded(self.tokenizer, rows), targets_of(rows), torch.tensor(indices))


def tokenise(dataset: Dataset, tokenizer: Any, truncation: str) -> Dataset:
    """The rows with ``input_ids`` cut to the tokenizer's ``model_max_length``, ``length``, and whether it ``cut``.

    Pairs also get ``token_type_ids`` where the tokenizer's model takes them. Many rows are kept in the cache folder of
    ``datasets``, under a name made of the rows' fingerprint, the tokenizer's whole state and the way of cutting.
    """
    columns = [name for name in ("text", "pair") if name in dataset.column_names]
    with_types = len(columns) == 2 and "token_type_ids" in tokenizer.model_input_names
    settings = (truncation, HEAD_SHARE, CUT_VERSION, *columns[1:], *(["types"] if with_types else []))
    file = tokens.cache_file(dataset, tokenizer, *settings)
    limit = tokenizer.model_max_length
    fields = ["input_ids", "token_type_ids"] if with_types else ["input_ids"]

    def cut_batch(*texts: list[str]) -> dict[str, list[Any]]:
        coded = tokenizer(
            *texts,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=with_types,
            verbose=False,
        )
        found: dict[str, list[Any]] = {field: coded[field] for field in fields}
        too_long = [len(ids) > limit for ids in coded["input_ids"]]
        for row in (row for row, over in enumerate(too_long) if over):
            places = kept_places(coded.sequence_ids(row), limit, truncation)
            for values in found.values():
                values[row] = [values[row][place] for place in places]
        return {**found, "length": [len(ids) for ids in found["input_ids"]], "cut": too_long}

    with quiet_datasets():
        return dataset.map(
            cut_batch,
            batched=True,
            input_columns=columns,
            remove_columns=columns,
            desc="Tokenising",
            **tokens.kept_in(file, len(dataset)),
        )


def kept_places(texts: Sequence[int | None], limit: int, truncation: str) -> list[int]:
    """Which tokens stay of a row that has more than ``limit``: special ones, and each text's head, tail, or both.

    Of a pair the longer text is cut first, until both are of one length (``longest_first`` of ``transformers``).
    Source of head+tail: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?".

    Args:
        texts: the text that each token is of, 0 or 1; None for special tokens.
        limit: tokens in all, special ones included.
        truncation: "head", "tail" or "head+tail".
    """
    kept = [place for place, text in enumerate(texts) if text is None]
    first, second = ([place for place, text in enumerate(texts) if text == number] for number in (0, 1))
    shorter, longer = sorted((first, second), key=len)  # of a single text, the second has no tokens
    room = max(limit - len(kept), 0)
    least = min(len(shorter), room // 2)
    for places, share in ((shorter, least), (longer, room - least)):
        head = {"head": share, "tail": 0, "head+tail": round(HEAD_SHARE * share)}[truncation]
        kept += places[:head] + places[len(places) - (share - head) :]
    return sorted(kept)
