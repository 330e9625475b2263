"""Rows of a feature store, as batches of what goes into the trained part of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hftl.data.batches import Batch, Examples, Frequencies, Indices, evaluation_order
from hftl.features.replay import FEATURES, MASK, Cut
from hftl.features.store import Array, Found

TARGETS, POSITIONS = "targets", "positions"
"""The other arrays of a store: what the loss compares with, and how many positions a ragged row has."""


def filling_order(examples: Examples, rows: int, processes: int) -> list[list[Indices]]:
    """The batches that each process computes for a store, in the order in which it writes them.

    The batches are those of an evaluation in batches of ``rows``: which rows are computed together depends on the data
    alone, not on the number of processes.
    """
    batches = evaluation_order(len(examples), examples.lengths, rows)
    return [batches[process::processes] for process in range(processes)]


def arrays_of(cut: Cut, features: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
    """What a store keeps of a batch: the features without padding, and the targets."""
    kept = {FEATURES: features}
    if cut.ragged:
        mask = batch.inputs[MASK].bool()
        kept = {FEATURES: features[mask], POSITIONS: mask.sum(dim=1)}
    return kept if batch.targets is None else {**kept, TARGETS: batch.targets}


def restored(cut: Cut, kept: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The features of a batch from what a store keeps of them: with padding of zeros where they are ragged.

    Args:
        cut: where they go in.
        kept: of shape (rows, …), or (positions of all rows, …) where they are ragged.
        mask: the batch's, of shape (rows, positions), where they are.
    """
    if not cut.ragged:
        return kept
    assert mask is not None
    features = kept.new_zeros(*mask.shape, *kept.shape[1:])
    features[mask.bool()] = kept
    return features


class StoredExamples:
    """The rows of ``examples`` as batches of features, read from stores.

    Where the cut needs inputs, the batches have the model's own inputs as well; extras they always have.

    Args:
        examples: the rows.
        cut: where the features go in.
        stores: of the rows, which lie in them one store after the other; each with the examples it was filled from.
        batch: rows in a batch with which they were filled.
    """

    def __init__(self, examples: Examples, cut: Cut, stores: Sequence[tuple[Examples, Found]], batch: int) -> None:
        self._examples, self._cut = examples, cut
        self.notes: tuple[str, ...] = ()
        self.lengths: Indices | None = examples.lengths
        """Those of the rows themselves: an epoch has the same batches as without a store."""
        self.owners: Indices | None = examples.owners
        self.frequencies: Frequencies | None = examples.frequencies
        self.random = False
        self._read = cut.needs_inputs or bool(examples.__getitems__([0]).extras)
        self.read_ahead = self._read
        found = [store for _, store in stores]
        self.digest = " ".join(store.path.name for store in found)
        written, begin = [np.empty(0, dtype=np.int64)], 0
        for filled, store in stores:
            shards = filling_order(filled, batch, len(store.declaration.shards))
            written += [begin + rows for batches in shards for rows in batches]
            begin += len(filled)
        self._place = np.argsort(np.concatenate(written))
        self._arrays = {name: Array(found, name) for name in found[0].declaration.columns}
        if cut.ragged:
            lengths = self._arrays[POSITIONS].take(np.arange(begin)).numpy()
            self._start, self._length = np.cumsum(lengths) - lengths, lengths

    def __len__(self) -> int:
        return len(self._place)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        places = self._place[np.asarray(indices)]
        read = self._examples.__getitems__(indices) if self._read else None
        own = read.inputs if read and self._cut.needs_inputs else {}
        targets = self._arrays[TARGETS].take(places) if TARGETS in self._arrays else None
        if read:  # where a target is a place in the row, it depends on the padding
            targets = read.targets
        if self._cut.ragged:
            kept = self._arrays[FEATURES].cut(self._start[places], self._length[places])
        else:
            kept = self._arrays[FEATURES].take(places)
        features = restored(self._cut, kept, own.get(MASK))
        extras = read.extras if read else {}
        return Batch({FEATURES: features, **own}, targets, torch.as_tensor(indices), extras=extras)

    def at(self, seed: Sequence[int]) -> StoredExamples:  # noqa: ARG002 (each view has a store of its own)
        """See ``Examples``."""
        return self

    def picture(self) -> None:
        """There is none of features."""
