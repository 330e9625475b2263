"""hftl: transfer learning on Hugging Face, staged, exact and fast.

>>> from hftl import Recipe, Trainer, strategies
>>> from hftl.tasks import ImageClassification
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hftl.audio.backend import mend_torchaudio

if TYPE_CHECKING:
    from hftl.errors import HftlError
    from hftl.predictor import Predictor
    from hftl.recipe import strategies
    from hftl.recipe.phase import Phase
    from hftl.recipe.recipe import Recipe, Store
    from hftl.trainer import Trainer

__all__ = ["HftlError", "Phase", "Predictor", "Recipe", "Store", "Trainer", "strategies"]

_HOMES = {
    "HftlError": "errors",
    "Phase": "recipe.phase",
    "Predictor": "predictor",
    "Recipe": "recipe.recipe",
    "Store": "recipe.recipe",
    "Trainer": "trainer",
}


mend_torchaudio()  # before anything else imports it: transformers and peft do where it is installed


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``import hftl`` alone imports no torch."""
    if name == "strategies":
        return importlib.import_module("hftl.recipe.strategies")
    if name in _HOMES:
        return getattr(importlib.import_module(f"hftl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hftl' has no attribute {name!r}")
