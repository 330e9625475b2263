"""hftl: transfer learning on Hugging Face, staged, exact and fast.

>>> from hftl import Recipe, Trainer, strategies
>>> from hftl.tasks import ImageClassification
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hftl.audio_backend import mend_torchaudio

if TYPE_CHECKING:
    from hftl import strategies
    from hftl.errors import HftlError
    from hftl.phase import Phase
    from hftl.predictor import Predictor
    from hftl.recipe import Recipe, Store
    from hftl.trainer import Trainer

__all__ = ["HftlError", "Phase", "Predictor", "Recipe", "Store", "Trainer", "strategies"]

_HOMES = {
    "HftlError": "errors",
    "Phase": "phase",
    "Predictor": "predictor",
    "Recipe": "recipe",
    "Store": "recipe",
    "Trainer": "trainer",
}


mend_torchaudio()  # before anything else imports it: transformers and peft do where it is installed


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``import hftl`` alone imports no torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"hftl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hftl' has no attribute {name!r}")
