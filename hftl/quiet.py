"""Keeping the libraries' own bars and log lines out of what a run shows; what goes wrong is raised, and said once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no log lines of ``transformers``; its settings are as before afterwards."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def on_terminal() -> bool:
    """Whether a person watches stderr; of several processes on one terminal, only the first may draw."""
    return sys.stderr.isatty() and os.environ.get("LOCAL_RANK", "0") == "0"


def first_process() -> bool:
    """Whether this is the process that speaks, of those that a launcher has started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No progress bars where stderr is no terminal; no log lines (what goes wrong is raised, and said once)."""
    import datasets
    from datasets.utils import are_progress_bars_disabled

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
