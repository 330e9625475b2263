"""Quick runs of tiny models, for the tests that train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hftl import Recipe, Trainer
from hftl.records import Evaluated, PhaseStarted


def quick(task: Any, model: Path, folder: Path, **settings: Any) -> Recipe[Any]:
    """A recipe with small batches, in float32."""
    given = {"batch_size": 8, "precision": "fp32", "log_every": 1, **settings}
    return Recipe(task=task, model=str(model), output_dir=str(folder), **given)


def states(trainer: Trainer[Any]) -> dict[str, torch.Tensor]:
    """Copies of all parameters and persistent buffers as they are now."""
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def moved_in_each_phase(trainer: Trainer[Any]) -> Iterator[tuple[int, set[str]]]:
    """Runs it; for each phase of one epoch, the names of the tensors that its training moved."""
    before: dict[str, torch.Tensor] = {}
    for record in trainer.run():
        if isinstance(record, PhaseStarted):
            before = states(trainer)
        if isinstance(record, Evaluated) and record.split == "validation" and record.phase is not None:
            after = states(trainer)
            yield record.phase, {name for name in before if not torch.equal(before[name], after[name])}
