"""Tasks: one file a modality, found by importing it by name."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

from hftl.errors import HftlError, one_line
from hftl.tasks.base import Task


def names() -> list[str]:
    """The names of all tasks: the modules beside this one, less the protocol; what tasks share is in a package."""
    modules = (module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    return sorted(name.replace("_", "-") for name in modules if name != "base")


def find(name: str) -> type[Any]:
    """The class of a task: ``image-classification`` is ``ImageClassification`` in ``image_classification.py``.

    A task of one's own is ``module:Class``, of a module that can be imported.

    Raises:
        HftlError: no task has that name, or the class is no task.
    """
    if ":" in name:
        return _own(name)
    if name not in names():
        raise HftlError(
            f"{name}: no such task; there are {', '.join(names())}, and one of your own is module:Class, such as "
            "my_project.tasks:Counting"
        )
    module = importlib.import_module(f"hftl.tasks.{name.replace('-', '_')}")
    found: type[Any] = getattr(module, "".join(part.title() for part in name.split("-")))
    return found


def _own(name: str) -> type[Any]:
    """The class that somebody has brought."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise HftlError(
            f"{name}: its module cannot be imported ({one_line(error)}); start in the folder that has it, or install it"
        ) from None
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise HftlError(f"{name}: {module} has no class {path}")
    if not dataclasses.is_dataclass(found):
        raise HftlError(f"{name}: it is no dataclass, and a task is one: its fields are its options")
    options = {field.name for field in dataclasses.fields(found)}
    wanted = {each for each in (*vars(Task), *Task.__annotations__) if not each.startswith("_")}
    if lacking := sorted(each for each in wanted - options if not hasattr(found, each)):
        raise HftlError(f"{name}: it is no task yet, for it lacks {', '.join(lacking)} (see hftl.tasks.base.Task)")
    return found


def __getattr__(name: str) -> Any:
    """``from hftl.tasks import ImageClassification`` without importing any other task."""
    for task in names():
        if name == "".join(part.title() for part in task.split("-")):
            return find(task)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
