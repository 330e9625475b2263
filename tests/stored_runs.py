"""Runs of tiny models that say what they stored, for the tests of stored features."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hftl.trainer
from hftl import Recipe, Trainer
from hftl.recipe.recipe import Store
from hftl.records import FeaturesReady, Noted, Record, RunEnded


@dataclass(frozen=True)
class Ran:
    """A run that has ended."""

    trainer: Trainer[Any]
    records: list[Record]
    batches: list[list[int]]
    """The rows of each batch that was trained on, in order."""

    @property
    def stored(self) -> list[FeaturesReady]:
        return [record for record in self.records if isinstance(record, FeaturesReady)]

    @property
    def computed(self) -> list[list[str]]:
        """For each phase on stored features, what it had to compute."""
        return [record.computed for record in self.stored]

    @property
    def notes(self) -> list[str]:
        return [record.note for record in self.records if isinstance(record, Noted)]

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        ended = self.records[-1]
        assert isinstance(ended, RunEnded)
        return ended.scores

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.trainer.model.state_dict())


def run(recipe: Recipe[Any], folder: Path, use: bool = True, prepare: Any = None, **store: Any) -> Ran:
    """Run it with its stores in ``folder``; ``prepare`` gets the trainer when the model is loaded."""
    trainer = Trainer(replace(recipe, store=Store(use=use, dir=str(folder), **store)))
    records: list[Record] = []
    batches: list[list[int]] = []
    steps_of = hftl.trainer.epoch_steps

    def watched(*arguments: Any) -> Any:
        for rows, given in steps_of(*arguments):
            batches.extend(batch.rows.tolist() for batch in given)
            yield rows, given

    hftl.trainer.epoch_steps = watched
    try:
        for record in trainer.run():
            if prepare is not None and not records:
                prepare(trainer)
            records.append(record)
    finally:
        hftl.trainer.epoch_steps = steps_of
    return Ran(trainer, records, batches)


def assert_bit_equal(one: Ran, other: Ran) -> None:
    assert one.batches == other.batches
    assert one.scores == other.scores
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


def assert_close(one: Ran, other: Ran) -> None:
    """Equal to rounding: stored features come from other batches than those trained on.

    Of a tensor as a whole: where a gradient is next to nothing, Adam steps by its sign, and rounding decides that. The
    bias of an attention's keys has no other: it moves all of a query's scores alike.
    """
    assert one.batches == other.batches
    for split, scores in one.scores.items():
        for name, score in scores.items():
            np.testing.assert_allclose(other.scores[split][name], score, rtol=1e-4, atol=1e-5, err_msg=name)
    for name, tensor in one.weights.items():
        if name.endswith(("k_proj.bias", "key.bias", "k_lin.bias")):
            continue
        apart = (other.weights[name].double() - tensor.double()).norm()
        assert apart <= 1e-4 * tensor.double().norm() + 1e-6, f"{name}: {apart} apart"


def computed_first(recipe: Recipe[Any], folder: Path, prepare: Any = None, **store: Any) -> list[str]:
    """The splits that the first phase has to compute; the run goes no further."""
    out = tempfile.mkdtemp(dir=folder.parent, prefix="run")
    trainer = Trainer(replace(recipe, output_dir=out, store=Store(dir=str(folder), **store)))
    records = trainer.run()
    for number, record in enumerate(records):
        if prepare is not None and not number:
            prepare(trainer)
        assert not isinstance(record, Noted), record.note
        if isinstance(record, FeaturesReady):
            records.close()
            return record.computed
    raise AssertionError("no phase stored its features")
