"""Tasks: one file a modality, found by importing it by name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from hftl.errors import HftlError


def names() -> list[str]:
    """The names of all tasks: the modules beside this one, less the protocol; what tasks share is in a package."""
    modules = (module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    return sorted(name.replace("_", "-") for name in modules if name != "base")


def find(name: str) -> type[Any]:
    """The class of a task: ``image-classification`` is ``ImageClassification`` in ``image_classification.py``.

    Raises:
        HftlError: no task has that name.
    """
    if name not in names():
        raise HftlError(f"{name}: no such task; there are {', '.join(names())}")
    module = importlib.import_module(f"hftl.tasks.{name.replace('-', '_')}")
    found: type[Any] = getattr(module, "".join(part.title() for part in name.split("-")))
    return found


def __getattr__(name: str) -> Any:
    """``from hftl.tasks import ImageClassification`` without importing any other task."""
    for task in names():
        if name == "".join(part.title() for part in task.split("-")):
            return find(task)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
