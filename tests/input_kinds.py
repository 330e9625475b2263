"""The kinds of input, by the names of their roles."""

from __future__ import annotations

import functools

from hftl.audio.recordings import RECORDINGS
from hftl.data.columns import LABEL
from hftl.data.wanted import Beside, Labelling, Wanted
from hftl.image.reading import IMAGES
from hftl.text.columns import PAIR, TEXTS, find_texts
from hftl.text.questions import QUESTIONS

KINDS = {kind.role.name: kind for kind in (IMAGES, RECORDINGS, TEXTS, QUESTIONS)}
ROLES = {role.name: role for role in (LABEL, PAIR, *(kind.role for kind in KINDS.values()))}


def wanted_of(
    kind: str,
    *,
    input_column: str | None = None,
    pair_column: str | None = None,
    pairs: bool | None = False,
    label_column: str | None = None,
    label_columns: tuple[str, ...] = (),
    label_separator: str | None = None,
    max_rows: int | None = None,
    seed: int = 0,
    beside: Beside | None = None,
) -> Wanted:
    """What a task of this kind wants of its data."""
    named: tuple[str | None, ...] = (input_column,)
    find = None
    if kind == "text":
        named = (input_column, pair_column)
        find = functools.partial(find_texts, text=input_column, pair=pair_column, pairs=pairs)
    labelling = Labelling(label_column, label_columns, label_separator)
    return Wanted(KINDS[kind], named, find, labelling, max_rows, seed, beside)
