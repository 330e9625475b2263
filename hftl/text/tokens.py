"""Tokenizers as the tasks on texts use them: loaded, batches padded, and what they made kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hftl.errors import HftlError
from hftl.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from hftl.data.batches import Frequencies, Indices

PAD_TO = 8
"""Batches are as long as their longest text, rounded up to a multiple of this, as tensor cores want it. On a CPU fewer
shapes are computed, and freed memory fits again: MiniLM, IMDb (max_rows 480, seed 0) at 256 tokens, one epoch of
``Phase("all")`` in steps of 16 rows, bfloat16, 2 cores of an AMD EPYC: the last 28 of 30 steps take 25 s, and 29 s with
1 here (means of two)."""
CACHED_ROWS = 1000
"""Fewer rows are tokenised anew faster than they are found."""


def load(model: str, trust_remote_code: bool, most: int, side: Literal["left", "right"] = "right") -> Any:
    """The checkpoint's tokenizer, its ``model_max_length`` at most ``most``; ``side`` is where it cuts long texts.

    Where it has no padding token (GPT-2, Llama), its end-of-text token pads, on the right.

    Raises:
        HftlError: the checkpoint has none, or one without any token to pad with.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                model,
                trust_remote_code=trust_remote_code,
                truncation_side=side,  # set later, it is not saved
            )
    except (OSError, ValueError, ImportError) as error:
        raise HftlError(
            f"--model {model}: no tokenizer loads from it; save the one it was trained with beside it "
            f"({str(error).splitlines()[0]})"
        ) from None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made of nothing, it would take every word for unknown
        raise HftlError(f"--model {model}: no tokenizer loads from it; save the one it was trained with beside it")
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise HftlError(f"--model {model}: its tokenizer has no fast version (tokenizer.json), which hftl needs")
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"  # on the left it would shift GPT-2's positions
    if tokenizer.pad_token is None:
        raise HftlError(f"--model {model}: its tokenizer has no padding token; set pad_token in its folder")
    tokenizer.model_max_length = min(most, tokenizer.model_max_length)
    return tokenizer


def padded(tokenizer: Any, rows: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What the model takes of these rows, shape (rows, positions), from their unpadded ``input_ids``."""
    import numpy as np
    import torch

    unpadded = {name: rows[name] for name in ("input_ids", "token_type_ids") if name in rows}
    longest = max(map(len, unpadded["input_ids"]))
    length = min(-(-longest // PAD_TO) * PAD_TO, tokenizer.model_max_length)
    filled = tokenizer.pad(unpadded, padding="max_length", max_length=length)
    # By numpy: of lists, ``return_tensors`` and torch make tensors several times slower.
    return {name: torch.from_numpy(np.array(values, dtype=np.int64)) for name, values in filled.items()}


def padding_of(tokenizer: Any) -> tuple[Any, ...]:
    """All that says how ``padded`` fills rows up, for a digest."""
    padding = (tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.padding_side, PAD_TO)
    return tokenizer.model_input_names, padding


def cache_file(dataset: Dataset, tokenizer: Any, *settings: Any) -> Path:
    """Where in the cache folder of ``datasets`` to keep what is made of these rows.

    Its name stands for the rows' fingerprint, the tokenizer's whole state, and ``settings``: whatever else counts.
    """
    from datasets import config

    parts = (dataset._fingerprint, tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length, *settings)
    name = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]
    return Path(config.HF_DATASETS_CACHE) / "hftl" / f"{name}.arrow"


def kept_in(file: Path, rows: int) -> dict[str, Any]:
    """The options of ``Dataset.map`` that keep its result in ``file``, or in memory where there are few rows."""
    options: dict[str, Any] = {"new_fingerprint": file.stem}
    if rows < CACHED_ROWS:
        return {**options, "keep_in_memory": True}
    file.parent.mkdir(parents=True, exist_ok=True)
    return {**options, "cache_file_name": str(file)}


@contextlib.contextmanager
def several_processes(number: int | None) -> Iterator[None]:
    """Around a ``Dataset.map`` with ``num_proc``: tokenizers compute in one thread in each of its processes.

    Their threads do not survive a fork; left to themselves they say so, on standard error.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    if number is not None:
        os.environ[name] = "false"
    try:
        yield
    finally:
        if number is not None:
            os.environ.pop(name) if before is None else os.environ.update({name: before})


@dataclass(frozen=True)
class TokenExamples:
    """Rows of tokens, of any length: what is the same for every ``Examples`` made of them."""

    dataset: Dataset
    tokenizer: Any
    lengths: Indices
    notes: tuple[str, ...]
    frequencies: Frequencies | None = None
    owners: Indices | None = None

    columns: ClassVar[tuple[str, ...]]
    """Those of the dataset that the batches are made of."""
    random: ClassVar[bool] = False
    read_ahead: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.dataset)

    @functools.cached_property
    def digest(self) -> str:
        """See ``Examples``."""
        from hftl.data.digests import table_digest

        columns = [name for name in self.columns if name in self.dataset.column_names]
        return table_digest(self.dataset, columns, *padding_of(self.tokenizer))

    def at(self, seed: Sequence[int]) -> Self:  # noqa: ARG002 (texts have no random views)
        """See ``Examples``."""
        return self

    def picture(self) -> None:
        """There is none of texts."""
