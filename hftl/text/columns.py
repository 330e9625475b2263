"""Columns of texts: which they are, where they hold nothing, and what tells two apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hftl.data.columns import find_column, is_string, mend
from hftl.data.files import not_utf8
from hftl.data.kinds import Digests, Kind, Role, digest64
from hftl.data.sampling import Ids
from hftl.errors import HftlError

TEXT = Role(
    "text",
    "strings",
    ("text", "sentence", "review", "content", "document", "comment", "tweet", "message", "body", "title"),
)
PAIR = Role("pair", "strings")
"""Found by ``PAIRS`` or named, never by itself."""
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("question1", "question2"), ("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"), ("query", "passage"),
    ("query", "document"), ("question", "sentence"), ("question", "passage"), ("question", "answer"),
    ("claim", "evidence"),
)  # fmt: skip
"""Names of columns that hold a first and a second text, in lower case; the first pair that is there counts."""
BETWEEN = "|||"
"""What separates the two texts of a pair that is written as one string."""
NAME = 60
"""Characters of a text that stand for it in a message."""
CHUNK = 256
"""Rows read at a time."""


def find_texts(
    dataset: Dataset, taken: Collection[str], *, text: str | None, pair: str | None, pairs: bool | None
) -> dict[str, Role]:
    """The column of the texts, and after it that of the second texts where each row has two.

    Args:
        dataset: one split.
        taken: columns that have another role already.
        text: the user's choice for the first; where it alone is given, each row has one text (unless ``pairs``).
        pair: the user's choice for the second.
        pairs: whether each row has two texts; None, where a second is named or the columns are a known pair.

    Raises:
        HftlError: as ``find_column``; or two texts a row are wanted, and which is not clear.
    """
    free = [name for name, feature in dataset.features.items() if name not in taken and is_string(feature)]
    lower = {name.strip().lower(): name for name in reversed(free)}
    known = [(lower[first], lower[second]) for first, second in PAIRS if {first, second} <= lower.keys()]
    fitting = [(first, second) for first, second in known if text in (None, first) and pair in (None, second)]
    if fitting and pairs is not False and (text is None or pair or pairs):
        return dict(zip(fitting[0], (TEXT, PAIR), strict=True))
    if pair is not None:
        second = find_column(dataset, PAIR, pair, taken)
        return {find_column(dataset, TEXT, text, [*taken, second]): TEXT, second: PAIR}
    if pairs:
        raise HftlError(f"no known pair of text columns found; {mend(dataset, PAIR)}")
    return {find_column(dataset, TEXT, text, taken): TEXT}


def text_name(*texts: str | None) -> str:
    """What to call a row of one text or two in a message: their beginnings."""
    plain = (" ".join((text or "").split()) for text in texts)
    return f" {BETWEEN} ".join(text[: NAME // len(texts)] for text in plain)


def read_text(path: str) -> str:
    """All of a text file.

    Raises:
        HftlError: it is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise not_utf8(Path(path), error) from None


def blank_texts(dataset: Dataset, columns: Sequence[str]) -> NDArray[Any]:
    """Why rows have no text, or no second text: shape (rows,), the empty string where they have."""
    reasons = np.full(len(dataset), "", dtype=object)
    for column, reason in reversed([*zip(columns, ("no text", "no second text"), strict=False)]):
        reasons[_blank(dataset, column)] = reason
    return reasons


def _blank(data: Dataset, column: str) -> NDArray[np.bool_]:
    """Where the text is missing or all white space, shape (rows,); read a chunk at a time, for it may be large."""
    text = data.with_format("arrow").select_columns([column])[:][column]
    # Trimmed as Python does: a no-break space alone is blank, too.
    chunks = (pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(chunk)), 0) for chunk in text.chunks)
    return np.concatenate([pc.fill_null(chunk, True).to_numpy(zero_copy_only=False) for chunk in chunks])


def text_digests(dataset: Dataset, columns: Sequence[str], rows: Ids) -> Digests:
    """Digests of the texts in these rows, shape (rows,): the same where they differ in case or white space alone."""
    digests = np.zeros(len(rows), dtype=np.uint64)
    inputs = dataset.select_columns([*columns])
    for start in range(0, len(rows), CHUNK):
        chunk = inputs[rows[start : start + CHUNK]]
        for place, texts in enumerate(zip(*(chunk[column] for column in columns), strict=True), start):
            plain = (" ".join(text.split()).casefold() for text in texts)
            digests[place] = digest64("\0".join(plain).encode("utf-8", "surrogatepass"))
    return digests


TEXTS = Kind(
    TEXT,
    text_name,
    files=".txt files",
    extensions=frozenset({".txt"}),
    read=read_text,
    blanks=blank_texts,
    digests=text_digests,
)
