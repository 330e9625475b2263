"""Which columns are the input and which the label: by name, then by type."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, LargeList, List, Value

from hftl.data.kinds import Role
from hftl.errors import HftlError

LABEL = Role(
    "label",
    "labels",
    ("label", "labels", "primary_label", "target", "class", "category", "sentiment", "species", "intent", "emotion",
     "topic", "class_name", "label_name", "y"),
)  # fmt: skip
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
            raise HftlError(f"no column '{named}'; {mend(dataset, role)}")
        if not (_fits(dataset, named, role) or (role.holds == "files" and is_string(features[named]))):
            raise HftlError(f"column '{named}' is {type_name(features[named])}, no {role.name}; {mend(dataset, role)}")
        return named
    free = [name for name in features if name not in taken]
    lower = {name.strip().lower(): name for name in reversed(free)}
    usual = [lower[name] for name in role.usual_names if name in lower]
    for name in usual:
        if _fits(dataset, name, role):
            return name
    candidates = [name for name in free if _fits_unnamed(dataset, name, role)]
    if role.holds == "labels" and len(typed := [n for n in candidates if isinstance(features[n], ClassLabel)]) == 1:
        return typed[0]
    if len(candidates) == 1:
        return candidates[0]
    name = role.name
    problem = f"no {name} column found" if not candidates else f"the {name} column could be {_listed(candidates)}"
    several = ", or all that say 0 or 1 for a label each with --task.label-columns"
    raise HftlError(f"{problem}; {mend(dataset, role)}{several if role.holds == 'labels' and candidates else ''}")


def undecoded(dataset: Dataset, name: str, role: Role) -> Dataset:
    """The rows, files in this column no further decoded than to bytes or a path; paths and texts are as they were."""
    feature = dataset.features[name]
    if role.encoded is None or not (isinstance(feature, role.encoded) or "binary" in str(feature)):
        return dataset
    return dataset.cast_column(name, role.encoded(decode=False))


def type_name(feature: Any) -> str:
    """A column's type in a word or two."""
    if isinstance(feature, ClassLabel):
        return "class label"
    if isinstance(feature, Value):
        return str(feature.dtype).removeprefix("large_")
    if item_of(feature) is not None:
        return "list"
    return "struct" if isinstance(feature, dict) else type(feature).__name__.lower()


def item_of(feature: Any) -> Any:
    """What the lists of a column hold; None where it holds no lists."""
    if isinstance(feature, list):
        return feature[0]
    return feature.feature if isinstance(feature, List | LargeList) else None


def holds_paths(dataset: Dataset, name: str, extensions: Collection[str]) -> bool:
    """Whether it is a column of strings, the first of which ends as a file does: in lower case, with the dot."""
    if not is_string(dataset.features[name]):
        return False
    head = dataset.with_format("arrow")[: min(len(dataset), 100)][name]
    first = next((value for value in head.to_pylist() if value), "")
    return Path(first).suffix.lower() in extensions


def _fits(dataset: Dataset, name: str, role: Role) -> bool:
    """Whether a column of a usual (or given) name has a type for its role; labels may be lists, too."""
    feature = dataset.features[name]
    if role.holds == "strings":
        return is_string(feature)
    if role.holds == "files":
        return _is_encoded(feature, role) or holds_paths(dataset, name, role.extensions)
    if role.holds == "labels":
        return is_label(feature) or is_label(item_of(feature))
    return True  # whatever its cells hold is looked at one by one


def _fits_unnamed(dataset: Dataset, name: str, role: Role) -> bool:
    feature = dataset.features[name]
    if not role.by_type:
        return False
    if role.holds != "labels":
        return _fits(dataset, name, role)
    if name.strip().lower() in NEVER_A_LABEL or item_of(feature) is not None:
        return False  # lists of whatever else are common; those of labels have a usual name, or are named
    # A column of numbers with a fraction is taken for labels only under a usual name (and then explained).
    return _fits(dataset, name, role) and not (isinstance(feature, Value) and pa.types.is_floating(feature.pa_type))


def is_label(feature: Any) -> bool:
    """Whether single values of this type can name a class."""
    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and _is_label_type(feature.pa_type))


def is_string(feature: Any) -> bool:
    """Whether values of this type are strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def _is_label_type(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string,
              types.is_string_view, types.is_null)  # fmt: skip
    return any(check(kind) for check in checks)


def _is_encoded(feature: Any, role: Role) -> bool:
    if isinstance(feature, Value):
        return feature.dtype in ("binary", "large_binary")
    struct = isinstance(feature, dict) and {"bytes", "path"} >= set(feature) != set()
    return struct or isinstance(feature, role.encoded)


def mend(dataset: Dataset, role: Role) -> str:
    """What to do where the column for a role is not there or not clear."""
    columns = ", ".join(f"{name} ({type_name(feature)})" for name, feature in dataset.features.items())
    return f"name one of {columns} with --task.{role.name}-column"


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:-1]) + f" or '{names[-1]}'"
