"""One digest of many rows: equal digests mean equal content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 10_000
"""Rows that are read at a time."""


def table_digest(dataset: Dataset, columns: Sequence[str], *others: Any) -> str:
    """Of some columns of all rows, in their order, and of ``others``: whatever else counts, by its ``repr``.

    Columns of numbers, texts, or lists of numbers.
    """
    total = hashlib.blake2b(repr((len(dataset), tuple(columns), others)).encode(), digest_size=16)
    rows = dataset.select_columns([*columns]).with_format("arrow")
    for start in range(0, len(dataset), CHUNK):
        chunk = rows[start : start + CHUNK]
        for column in columns:
            _add(total, chunk[column].combine_chunks())
    return total.hexdigest()


def _add(total: Any, values: Any) -> None:
    """Add the values themselves, not their buffers, which may hold more than is shown of them."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_fixed_size_list(values.type):
        total.update(str(values.type).encode())
        _add(total, values.flatten())
    elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        total.update(values.value_lengths().to_numpy(zero_copy_only=False).tobytes())
        _add(total, values.flatten())
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        for text in values.to_pylist():
            encoded = b"" if text is None else text.encode("utf-8", "surrogatepass")
            total.update(len(encoded).to_bytes(8, "little") + encoded)
    else:
        total.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
