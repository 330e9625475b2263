"""Letting torchaudio be imported where its native library does not load."""

from __future__ import annotations

import functools
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

EXTENSION = "torchaudio._extension"
"""The module of torchaudio that loads its native library."""


def mend_torchaudio() -> None:
    """From now on ``import torchaudio`` works beside a torch that its native library is not built for.

    Its wheels are linked against CUDA, so beside a CPU torch the import raises OSError, though everything but forced
    alignment and the CUDA decoder is written in Python. Where the library loads, nothing is different. Imports nothing
    itself; to be called before torchaudio is imported, and as often as wanted.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds ``EXTENSION`` as Python does, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Executes the real module, and where its library does not load fills in what others import from it."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.real.exec_module(module)
        except OSError:
            vars(module).update(
                _IS_TORCHAUDIO_EXT_AVAILABLE=False,
                _IS_ALIGN_AVAILABLE=False,
                fail_if_no_align=_fail_if_no_align,
                _check_cuda_version=lambda: None,
                _load_lib=lambda _: False,
            )


def _fail_if_no_align(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"torchaudio's {function.__name__} needs its native library, which does not load beside this torch; "
            "install the torchaudio that is built for it"
        )

    return fail
