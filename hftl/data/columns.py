"""Which columns are the input and which the label: by name, then by type."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, Image, LargeList, List, Value

from hftl.audio.sounds import SOUND_EXTENSIONS
from hftl.errors import HftlError
from hftl.image.reading import IMAGE_EXTENSIONS

Role: TypeAlias = Literal["image", "audio", "text", "pair", "label", "question", "context", "answers"]

USUAL_NAMES: dict[Role, tuple[str, ...]] = {
    "image": ("image", "img", "photo", "picture", "path", "image_path", "file", "filename", "file_name", "filepath",
              "file_path", "images"),
    "audio": ("audio", "sound", "recording", "speech", "clip", "wav", "path", "audio_path", "file", "filename",
              "file_name", "filepath", "file_path"),
    "text": ("text", "sentence", "review", "content", "document", "comment", "tweet", "message", "body", "title"),
    "pair": (),  # found by PAIRS or named, never by itself
    "label": ("label", "labels", "primary_label", "target", "class", "category", "sentiment", "species", "intent",
              "emotion", "topic", "class_name", "label_name", "y"),
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph", "document", "text"),
    "answers": ("answers", "answer"),
}  # fmt: skip
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("question1", "question2"), ("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"), ("query", "passage"),
    ("query", "document"), ("question", "sentence"), ("question", "passage"), ("question", "answer"),
    ("claim", "evidence"),
)  # fmt: skip
"""Names of columns that hold a first and a second text, in lower case; the first pair that is there counts."""
EXTENSIONS = {"image": IMAGE_EXTENSIONS, "audio": SOUND_EXTENSIONS}
"""Of the files that hold an input, by its role: endings in lower case, with the dot."""
ENCODED = {"image": Image, "audio": Audio}
"""How ``datasets`` calls columns that hold such files."""
NEVER_A_LABEL = frozenset({"id", "idx", "index", "row", "unnamed: 0", "__index_level_0__"})


def find_column(dataset: Dataset, role: Role, named: str | None, taken: Collection[str]) -> str:
    """The column for a role: the one named, else one of the usual names and type, else the only one of the type.

    Args:
        dataset: one split.
        role: what the column is for.
        named: the user's choice, which is only checked.
        taken: columns that have another role already.

    Raises:
        HftlError: there is none, or more than one; the columns are listed with their types.
    """
    features: dict[str, Any] = dataset.features
    if named is not None:
        if named not in features:
            raise HftlError(f"no column '{named}'; {_mend(dataset, role)}")
        if not (_fits(dataset, named, role) or (role in EXTENSIONS and _is_string(features[named]))):
            raise HftlError(f"column '{named}' is {kind_of(features[named])}, no {role}; {_mend(dataset, role)}")
        return named
    free = [name for name in features if name not in taken]
    lower = {name.strip().lower(): name for name in reversed(free)}
    usual = [lower[name] for name in USUAL_NAMES[role] if name in lower]
    for name in usual:
        if _fits(dataset, name, role):
            return name
    candidates = [name for name in free if _fits_unnamed(dataset, name, role)]
    if role == "label" and len(typed := [n for n in candidates if isinstance(features[n], ClassLabel)]) == 1:
        return typed[0]
    if len(candidates) == 1:
        return candidates[0]
    problem = f"no {role} column found" if not candidates else f"the {role} column could be {_listed(candidates)}"
    several = ", or all that say 0 or 1 for a label each with --task.label-columns"
    raise HftlError(f"{problem}; {_mend(dataset, role)}{several if role == 'label' and candidates else ''}")


def find_texts(
    dataset: Dataset, text: str | None, pair: str | None, pairs: bool | None, taken: Collection[str]
) -> tuple[str, str | None]:
    """The column of the texts, and that of the second texts where each row has two.

    Args:
        dataset: one split.
        text: the user's choice for the first; where it alone is given, each row has one text (unless ``pairs``).
        pair: the user's choice for the second.
        pairs: whether each row has two texts; None, where a second is named or the columns are a known pair.
        taken: columns that have another role already.

    Raises:
        HftlError: as ``find_column``; or two texts a row are wanted, and which is not clear.
    """
    free = [name for name, feature in dataset.features.items() if name not in taken and _is_string(feature)]
    lower = {name.strip().lower(): name for name in reversed(free)}
    known = [(lower[first], lower[second]) for first, second in PAIRS if {first, second} <= lower.keys()]
    fitting = [(first, second) for first, second in known if text in (None, first) and pair in (None, second)]
    if fitting and pairs is not False and (text is None or pair or pairs):
        return fitting[0]
    if pair is not None:
        second = find_column(dataset, "pair", pair, taken)
        return find_column(dataset, "text", text, [*taken, second]), second
    if pairs:
        raise HftlError(f"no known pair of text columns found; {_mend(dataset, 'pair')}")
    return find_column(dataset, "text", text, taken), None


def undecoded(dataset: Dataset, name: str, role: str) -> Dataset:
    """The rows, files in this column no further decoded than to bytes or a path; paths and texts are as they were."""
    encoded, feature = ENCODED.get(role), dataset.features[name]
    if encoded is None or not (isinstance(feature, encoded) or "binary" in str(feature)):
        return dataset
    return dataset.cast_column(name, encoded(decode=False))


def kind_of(feature: Any) -> str:
    """A column's type in a word or two."""
    if isinstance(feature, ClassLabel):
        return "class label"
    for role, kind in ENCODED.items():
        if isinstance(feature, kind):
            return role
    if isinstance(feature, Value):
        return str(feature.dtype).removeprefix("large_")
    if item_of(feature) is not None:
        return "list"
    return "struct" if isinstance(feature, dict) else type(feature).__name__


def item_of(feature: Any) -> Any:
    """What the lists of a column hold; None where it holds no lists."""
    if isinstance(feature, list):
        return feature[0]
    return feature.feature if isinstance(feature, List | LargeList) else None


def holds_paths(dataset: Dataset, name: str, role: str) -> bool:
    """Whether it is a column of strings, the first of which ends as a file of this role ("image", "audio") does."""
    if not _is_string(dataset.features[name]):
        return False
    head = dataset.with_format("arrow")[: min(len(dataset), 100)][name]
    first = next((value for value in head.to_pylist() if value), "")
    return Path(first).suffix.lower() in EXTENSIONS[role]


def _fits(dataset: Dataset, name: str, role: Role) -> bool:
    """Whether a column of a usual (or given) name has a type for its role; labels may be lists, too."""
    feature = dataset.features[name]
    if role in ("text", "pair", "question", "context"):
        return _is_string(feature)
    if role == "answers":
        return True  # whatever its cells hold is looked at one by one
    if role in EXTENSIONS:
        return _is_encoded(feature, role) or holds_paths(dataset, name, role)
    return is_label(feature) or is_label(item_of(feature))


def _fits_unnamed(dataset: Dataset, name: str, role: Role) -> bool:
    feature = dataset.features[name]
    if role in ("question", "context", "answers"):  # with two or three of them, what is left over says nothing
        return False
    if role != "label":
        return _fits(dataset, name, role)
    if name.strip().lower() in NEVER_A_LABEL or item_of(feature) is not None:
        return False  # lists of whatever else are common; those of labels have a usual name, or are named
    # A column of numbers with a fraction is taken for labels only under a usual name (and then explained).
    return _fits(dataset, name, role) and not (isinstance(feature, Value) and pa.types.is_floating(feature.pa_type))


def is_label(feature: Any) -> bool:
    """Whether single values of this type can name a class."""
    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and _is_label_type(feature.pa_type))


def _is_string(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def _is_label_type(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string,
              types.is_string_view, types.is_null)  # fmt: skip
    return any(check(kind) for check in checks)


def _is_encoded(feature: Any, role: str) -> bool:
    if isinstance(feature, Value):
        return feature.dtype in ("binary", "large_binary")
    struct = isinstance(feature, dict) and {"bytes", "path"} >= set(feature) != set()
    return struct or isinstance(feature, ENCODED[role])


def _mend(dataset: Dataset, role: Role) -> str:
    columns = ", ".join(f"{name} ({kind_of(feature)})" for name, feature in dataset.features.items())
    return f"name one of {columns} with --task.{role}-column"


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:-1]) + f" or '{names[-1]}'"
