"""Tables whose rows are parts of recordings: which columns say from when to when, and that they are not read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from hftl.data.kinds import digest64
from hftl.errors import HftlError

UNIT = r"(?:times?)?(?:s|secs?|seconds)?"
BEGIN, END = re.compile(rf"(?:start|begin|onset){UNIT}"), re.compile(rf"(?:end|stop|offset){UNIT}")
"""Of the letters of such columns' names, in lower case: start_time, Begin Time (s), end_seconds."""
CHUNK = 256
"""Rows read at a time: their encoded bytes are in memory together."""


def check_whole(tables: Mapping[str, Dataset], column: str) -> None:
    """That rows are whole recordings, or may be: those of which no two rows are parts.

    Windows would be cut from all of a recording for each of its rows, under the label of each.

    Args:
        tables: what to call each, and its rows; the recordings decoded no further than bytes or path.
        column: that of the recordings.

    Raises:
        HftlError: rows have a beginning and an end, and two of them the same recording.
    """
    seen: set[Any] = set()
    for name, table in tables.items():
        columns = [next((each for each in table.features if _is(each, table, what)), "") for what in (BEGIN, END)]
        if not all(columns):
            continue
        for chunk in table.select_columns([column, *columns]).with_format("arrow").iter(CHUNK):
            # A row that does not say from when to when is a whole recording.
            parts = np.logical_and(*(np.isfinite(chunk[each].to_numpy().astype(float)) for each in columns))
            for value in chunk[column].filter(pa.array(parts)).to_pylist():
                recording = _recording(value)
                if recording in seen:
                    begin, end = columns
                    raise HftlError(
                        f"{name}: rows are parts of recordings (columns '{begin}', '{end}'), which is not read yet: "
                        "cut them into files of their own, or take these columns out"
                    )
                if recording is not None:
                    seen.add(recording)


def _is(name: str, table: Dataset, what: re.Pattern[str]) -> bool:
    """Whether a column has such a name, and holds numbers."""
    feature = table.features[name]
    if not what.fullmatch(re.sub("[^a-z]", "", name.lower())) or not isinstance(feature, Value):
        return False
    return bool(pa.types.is_integer(feature.pa_type) or pa.types.is_floating(feature.pa_type))


def _recording(value: Any) -> str | int | None:
    """What tells it from others: its path, or where it is bytes these, for beside bytes a path is but a name."""
    if isinstance(value, dict):
        return digest64(value["bytes"]) if value.get("bytes") else value.get("path")
    return value or None
