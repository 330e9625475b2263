"""Questions and their texts, cut into windows of tokens that a model can take."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset

from hftl.data.batches import Batch
from hftl.quiet import quiet_datasets
from hftl.runtime.machine import usable_cores
from hftl.text import tokens

Places = npt.NDArray[np.int32]
"""Characters of a text, or -1."""

WINDOWS_VERSION = 1
"""To be raised whenever ``cut_windows`` gives something else: windows made before are not taken then."""
ROWS_A_PROCESS = 4000
"""More questions than this are cut by another process."""
FEWEST_NEW = 8
"""Tokens of its text that a window has to have room for, beside those that it shares with the one before."""


def too_long(questions: Sequence[str], tokenizer: Any, stride: int) -> list[str | None]:
    """Why each of these questions leaves too little room for a text; None where it leaves enough."""
    most = tokenizer.model_max_length
    room = most - tokenizer.num_special_tokens_to_add(pair=True) - stride - FEWEST_NEW
    if not questions:
        return []
    coded = tokenizer([*questions], add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [
        f"the question has {len(each)} tokens, and windows of {most} (--task.max-length) that share {stride} "
        f"(--task.doc-stride) leave room for {max(0, room)}"
        if len(each) > room
        else None
        for each in coded
    ]


def cut_windows(dataset: Dataset, tokenizer: Any, stride: int) -> Dataset:
    """The windows of all questions, as the tokenizer's ``model_max_length`` and ``stride`` cut their texts.

    Columns: ``input_ids`` (and ``token_type_ids``), ``length``; ``begins`` and ``ends``, the characters of the text at
    which each token begins and ends, white space around it left out, -1 for all that is no token of the text; ``null``,
    the position that stands for no answer; ``question_row``, whose it is; and where answers are known ``first`` and
    ``last``, the positions of the first answer's tokens, those of no answer where the window has it not as a whole, and
    ``whole``, whether it has. Many are made by several processes, and kept in the cache folder of ``datasets``.
    """
    known = "answers" in dataset.column_names
    with_types = "token_type_ids" in tokenizer.model_input_names
    tokenizer.backend_tokenizer.no_truncation()  # its state is part of the name of what is kept
    file = tokens.cache_file(dataset, tokenizer, "windows", WINDOWS_VERSION, stride)
    columns = ["question", "context", *(["answers"] if known else [])]
    wanted = min(usable_cores(), len(dataset) // ROWS_A_PROCESS)
    processes = wanted if wanted > 1 else None

    def cut_batch(questions: list[str], contexts: list[str], *rest: Any) -> dict[str, list[Any]]:
        coded = tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=tokenizer.model_max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=with_types,
            verbose=False,
        )
        rows = coded["overflow_to_sample_mapping"]
        found = {name: coded[name] for name in ("input_ids", "token_type_ids") if name in coded}
        cut = [
            _window(encoding, ids, contexts[row], rest[0][row] if known else None, tokenizer.cls_token_id)
            for encoding, ids, row in zip(coded.encodings, coded["input_ids"], rows, strict=True)
        ]
        found |= {name: [window[name] for window in cut] for name in cut[0]}
        numbers = rest[-1]
        return {**found, "question_row": [numbers[row] for row in rows]}

    with quiet_datasets(), tokens.several_processes(processes):
        windows: Dataset = dataset.map(
            cut_batch,
            batched=True,
            with_indices=True,
            input_columns=columns,
            remove_columns=dataset.column_names,
            num_proc=processes,
            desc="Cutting windows",
            **tokens.kept_in(file, len(dataset)),
        )
    tokenizer.backend_tokenizer.no_truncation()  # nor is it to be saved with the model
    return windows


def _window(
    encoding: Any, ids: Sequence[int], context: str, answers: Mapping[str, Any] | None, null_id: int | None
) -> dict[str, Any]:
    """What ``cut_windows`` says of one window, beside its tokens."""
    offsets = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    of_text = np.array([text == 1 for text in encoding.sequence_ids], dtype=bool)
    after, before = _solid(context)
    begins, ends = after[offsets[:, 0] * of_text], before[offsets[:, 1] * of_text]
    of_text &= ends > begins
    begins, ends = (np.where(of_text, places, -1).astype(np.int32) for places in (begins, ends))
    null = ids.index(null_id) if null_id in ids else 0
    window = {"length": len(ids), "begins": begins, "ends": ends, "null": null}
    if answers is None:
        return window
    inside = _inside(begins, ends, answers) if answers["text"] else np.arange(0)
    whole = len(inside) > 0
    first, last = (int(inside[0]), int(inside[-1])) if whole else (null, null)
    return {**window, "first": first, "last": last, "whole": whole}


@functools.lru_cache(maxsize=4)  # the windows of a text follow each other
def _solid(context: str) -> tuple[Places, Places]:
    """For each place in the text: the next character from there on that is no white space; the end of the last before.

    Many tokenizers count the space before a word as part of it.
    """
    space = np.array([*map(str.isspace, context), False])
    places = np.arange(len(space), dtype=np.int32)
    after = np.minimum.accumulate(np.where(space, places[-1], places)[::-1])[::-1]
    ends = np.concatenate([[True], ~space[:-1]])
    return after, np.maximum.accumulate(np.where(ends, places, 0))


def _inside(begins: Places, ends: Places, answers: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """The positions of the first answer's tokens; none where the window has not all of it."""
    text, start = answers["text"][0], answers["answer_start"][0]
    start += len(text) - len(text.lstrip())
    end = start + len(text.strip())
    there = begins >= 0
    if not there.any() or begins[there].min() > start or ends.max() < end:
        return np.arange(0)
    return np.flatnonzero(there & (ends > start) & (begins < end))


class QuestionExamples(tokens.TokenExamples):
    """Windows as batches of ``input_ids`` and ``attention_mask`` (and ``token_type_ids``), shape (windows, positions).

    Targets are the positions of the answer's first and last token, shape (windows, 2); where it is not in the window,
    twice that of the token that stands for no answer. Extras: ``begins``, ``ends``, ``null`` (see ``candidates``) and
    ``question``, the row that a window is of.
    """

    columns: ClassVar[tuple[str, ...]] = ("input_ids", "token_type_ids", "begins", "ends", "null", "first", "last")

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        rows = self.dataset[indices]
        inputs = tokens.padded(self.tokenizer, rows)
        positions, left = inputs["input_ids"].shape[1], self.tokenizer.padding_side == "left"
        lengths = torch.tensor([len(ids) for ids in rows["input_ids"]])
        shift = positions - lengths if left else torch.zeros_like(lengths)
        place = torch.arange(positions) - shift[:, None]
        there = (place >= 0) & (place < lengths[:, None])
        extras = {"null": torch.tensor(rows["null"]) + shift, "question": torch.tensor(rows["question_row"])}
        for name in ("begins", "ends"):
            extras[name] = torch.full(there.shape, -1)
            extras[name][there] = torch.from_numpy(np.concatenate(rows[name]).astype(np.int64))
        targets = None
        if "first" in rows:
            targets = torch.stack([torch.tensor(rows[name]) + shift for name in ("first", "last")], dim=1)
        return Batch(inputs, targets, torch.tensor(indices), extras=extras)
