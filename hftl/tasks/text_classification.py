"""Text classification: reviews, sentences, documents to labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hftl.errors import HftlError
from hftl.quiet import quiet_datasets, quiet_transformers
from hftl.tasks._classification import Classification, targets_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.batches import Batch, Frequencies, Indices
    from hftl.data.splits import BadRow

CUT_VERSION = 1
"""To be raised whenever ``tokenise`` or ``cut`` give something else: tokens made before are not taken then."""
CACHED_ROWS = 1000
"""Fewer rows are tokenised anew faster than they are found."""
HEAD_SHARE = 0.25
"""Part of the tokens that head+tail truncation takes from the beginning (128 of 510 in Sun et al. 2019)."""


@dataclass(frozen=True)
class TextClassification(Classification):
    """Texts in a table or in files, one folder a class."""

    name: ClassVar[str] = "text-classification"
    kind: ClassVar[Literal["image", "text"]] = "text"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    head_lr: ClassVar[float] = 2e-3
    lr: ClassVar[float] = 5e-5

    text_column: str | None = None
    """Column of the texts; unset, found by name and type."""
    max_length: int = 256
    """Most tokens of a text that the model sees, special tokens included (at most what the model takes)."""
    truncation: Literal["head", "tail", "head+tail"] = "head"
    """Which part of a longer text is kept; head+tail: a quarter of the tokens from its beginning, the rest from its
    end (Sun et al. 2019)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 8:
            raise HftlError(f"max_length: {self.max_length} is too short; use at least 8 tokens")

    def _load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """The checkpoint's tokenizer, its ``model_max_length`` and ``truncation_side`` as this task cuts texts.

        Raises:
            HftlError: the checkpoint has none, or one without a padding token.
        """
        from transformers import AutoTokenizer

        try:
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, ImportError) as error:
            raise HftlError(
                f"--model {model}: no tokenizer loads from it; save the one it was trained with beside it "
                f"({str(error).splitlines()[0]})"
            ) from None
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made of nothing, it would take every word for unknown
            raise HftlError(f"--model {model}: no tokenizer loads from it; save the one it was trained with beside it")
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise HftlError(f"--model {model}: its tokenizer has no fast version (tokenizer.json), which hftl needs")
        if tokenizer.pad_token is None:
            raise HftlError(f"--model {model}: its tokenizer has no padding token; set pad_token in its folder")
        tokenizer.model_max_length = min(self.max_length, tokenizer.model_max_length)
        tokenizer.truncation_side = "left" if self.truncation == "tail" else "right"
        return tokenizer

    def examples(self, dataset: Dataset, processor: Any, augment: bool) -> TextExamples:  # noqa: ARG002 (texts have no views)
        """See ``Task``."""
        import numpy as np

        tokenised = tokenise(dataset, processor, self.truncation)
        lengths = np.asarray(tokenised["length"], dtype=np.int64)
        cut = int(np.asarray(tokenised["cut"]).sum())
        kept = {"head": "beginning", "tail": "end", "head+tail": "beginning and end"}[self.truncation]
        note = (
            f"{cut:,} of {len(lengths):,} texts are longer than {processor.model_max_length} tokens; "
            f"their {kept} is used (--task.max-length, --task.truncation)"
        )
        return TextExamples(tokenised, processor, lengths, (note,) if cut else (), self.frequencies(dataset))

    def read_inputs(self, inputs: Sequence[Any]) -> tuple[Dataset, list[BadRow]]:
        """Texts as strings, .txt files, folders of them, or tables with a column of texts."""
        from datasets import Dataset

        from hftl.data.splits import BadRow

        found = [pair for item in inputs for pair in self._texts(str(item))]
        bad = [BadRow("inputs", row, name, "empty text") for row, (name, text) in enumerate(found) if not text.strip()]
        good = [(name, text) for name, text in found if text.strip()]
        if not good:
            raise HftlError(f"no text to predict: {bad[0].name!r} is empty" if bad else "no text to predict")
        return Dataset.from_dict({"name": [n for n, _ in good], "text": [text for _, text in good]}), bad

    def _texts(self, item: str) -> list[tuple[str, str]]:
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
            texts = table[columns.find_column(table, "text", self.text_column, ())]
            return [(f"{item}:{row}", text or "") for row, text in enumerate(texts)]
        return [(item, path.read_text(encoding="utf-8", errors="replace"))]


@dataclass(frozen=True)
class TextExamples:
    """Tokenised rows as batches of ``input_ids`` and ``attention_mask``, shape (rows, longest of the batch)."""

    dataset: Dataset
    tokenizer: Any
    lengths: Indices
    notes: tuple[str, ...]
    frequencies: Frequencies | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def at(self, seed: Sequence[int]) -> TextExamples:  # noqa: ARG002 (texts have no random views)
        """See ``Examples``."""
        return self

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        import torch

        from hftl.data.batches import Batch

        rows = self.dataset[indices]
        inputs = self.tokenizer.pad({"input_ids": rows["input_ids"]}, return_tensors="pt")
        return Batch(dict(inputs), targets_of(rows), torch.tensor(indices))


def tokenise(dataset: Dataset, tokenizer: Any, truncation: str) -> Dataset:
    """The rows with ``input_ids`` cut to the tokenizer's ``model_max_length``, ``length``, and whether it ``cut``.

    Many rows are kept in the cache folder of ``datasets``, under a name made of the rows' fingerprint, the tokenizer's
    whole state and the way of cutting.
    """
    import hashlib

    from datasets import config

    parts = (dataset._fingerprint, tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length, truncation)
    name = hashlib.sha256("\n".join(map(str, (*parts, HEAD_SHARE, CUT_VERSION))).encode()).hexdigest()[:16]
    file = None
    if len(dataset) >= CACHED_ROWS:
        file = Path(config.HF_DATASETS_CACHE) / "hftl" / f"{name}.arrow"
        file.parent.mkdir(parents=True, exist_ok=True)

    def cut_batch(texts: list[str]) -> dict[str, list[Any]]:
        coded = tokenizer(
            texts,
            truncation=False,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        limit = tokenizer.model_max_length
        pairs = zip(coded["input_ids"], coded["special_tokens_mask"], strict=True)
        ids = [cut(tokens, special, limit, truncation) for tokens, special in pairs]
        return {
            "input_ids": ids,
            "length": [len(tokens) for tokens in ids],
            "cut": [len(tokens) > limit for tokens in coded["input_ids"]],
        }

    with quiet_datasets():
        return dataset.map(
            cut_batch,
            batched=True,
            input_columns=["text"],
            remove_columns=["text"],
            new_fingerprint=name,
            cache_file_name=None if file is None else str(file),
            keep_in_memory=file is None,
            desc="Tokenising",
        )


def cut(tokens: list[int], special: list[int], limit: int, truncation: str) -> list[int]:
    """At most ``limit`` tokens: the special ones around the text, and its head, its tail, or both.

    Source of head+tail: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?".
    """
    excess = len(tokens) - limit
    if excess <= 0:
        return tokens
    before = next((i for i, flag in enumerate(special) if not flag), len(tokens))
    after = next((i for i, flag in enumerate(reversed(special)) if not flag), 0)
    room = limit - before - after
    head = {"head": room, "tail": 0, "head+tail": round(HEAD_SHARE * room)}[truncation]
    return tokens[: before + head] + tokens[before + head + excess :]
