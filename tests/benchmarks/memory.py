"""Resident memory of a linear probe on many rows of wide features: what is the process's own, and what is mapped."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.contenders import hftl, size_of
from benchmarks.overhead import write_model
from benchmarks.plan import FEATURES, Job

PERIOD = 0.02
"""Seconds between two looks."""


class Watch(threading.Thread):
    """Peaks of resident memory in bytes: all of it, and without pages that are mapped files (``private``)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.resident = self.private = 0
        self._over = threading.Event()

    def run(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._over.wait(PERIOD):
            now = process.memory_info()
            self.resident = max(self.resident, now.rss)
            self.private = max(self.private, now.rss - now.shared)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Peaks in MB of a linear probe, loading included, and how large its features are."""
    write_model(folder / "model", FEATURES, layers=1, heads=2, feed_forward=32)
    job = replace(job, source=replace(job.source, model=str(folder / "model")), batch=256, eval_batch=256)
    begun = time.perf_counter()
    with Watch() as watch:
        found = hftl(job, folder)
    return {
        **found,
        "seconds": time.perf_counter() - begun,
        "peak_mb": watch.resident / 1e6,
        "private_mb": watch.private / 1e6,
        "features_mb": 4 * FEATURES * job.measured_rows.total / 1e6,
        "files_mb": size_of(folder) / 1e6,
    }
