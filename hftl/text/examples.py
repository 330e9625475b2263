"""Texts, or pairs of them, as batches of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from datasets import Dataset

from hftl.data.batches import Batch
from hftl.data.labels import targets_of
from hftl.quiet import quiet_datasets
from hftl.text import tokens

CUT_VERSION = 1
"""To be raised whenever ``tokenise`` or ``cut`` give something else: tokens made before are not taken then."""
HEAD_SHARE = 0.25
"""Part of the tokens that head+tail truncation takes from the beginning (128 of 510 in Sun et al. 2019)."""


class TextExamples(tokens.TokenExamples):
    """Tokenised rows as batches of ``input_ids`` and ``attention_mask``, shape (rows, positions).

    Pairs have ``token_type_ids`` too where the tokenizer gives them to its model: which text a token is of.
    """

    columns: ClassVar[tuple[str, ...]] = ("input_ids", "token_type_ids", "label")

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
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
