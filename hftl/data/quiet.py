"""Keeping ``datasets`` from writing on a terminal that is not there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from datasets.utils import are_progress_bars_disabled


def on_terminal() -> bool:
    """Whether a person watches stderr; of several processes on one terminal, only the first may draw."""
    return sys.stderr.isatty() and os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No progress bars where stderr is no terminal; no log lines (what goes wrong is raised, and said once)."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    hide = not on_terminal() and not are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
