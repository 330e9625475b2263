"""The order of the data, as a pure function, and the loader that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from hftl.errors import HftlError

Indices = npt.NDArray[np.int64]
Frequencies = npt.NDArray[np.float64]
BUCKET_STEPS = 50
"""Steps whose rows are sorted by length together: long enough for little padding, short enough to stay random."""


@dataclass(frozen=True)
class Batch:
    """Rows ready for the model.

    ``inputs`` are the model's keyword arguments (first dimension: rows); ``targets`` what the loss compares with, of
    shape (rows, …), None where unknown; ``rows`` the indices into the examples, of shape (rows,). ``weight`` is 0 where
    the rows only keep a process in step with the others: their loss does not count. ``extras``, of shape (rows, …), is
    what the task has to know of the rows to make sense of the model's outputs, and the model never sees.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor | None
    rows: torch.Tensor
    weight: float = 1.0
    extras: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Self:
        """The batch on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, for the loader's own use."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        inputs, extras = ({k: change(v) for k, v in each.items()} for each in (self.inputs, self.extras))
        targets = None if self.targets is None else change(self.targets)
        return replace(self, inputs=inputs, targets=targets, extras=extras)


Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What is kept of a split's forward passes: arrays whose first dimension is the examples, in their order."""

Loss: TypeAlias = Callable[[Any, Batch], torch.Tensor]
"""The loss of each row, of shape (rows,), from the model's outputs and the batch; the model never sees the targets."""

Settings: TypeAlias = Mapping[str, Any]
"""The settings of a model's configuration, as plain data."""


class Examples(Protocol):
    """Rows of one split as a task reads them; the loader asks for whole batches."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how they are read, a line each."""

    @property
    def lengths(self) -> Indices | None:
        """Length of each example where padding costs time, else None."""

    @property
    def owners(self) -> Indices | None:
        """The row of the data that each example is of, where some make several examples; None: each its own."""

    @property
    def frequencies(self) -> Frequencies | None:
        """How often each example should be drawn, relative to the others; None: each once an epoch."""

    @property
    def random(self) -> bool:
        """Whether ``at`` makes a difference."""

    @property
    def read_ahead(self) -> bool:
        """Whether processes that read ahead can be worth it."""

    @property
    def digest(self) -> str:
        """Stands for all that is in the batches, content and transform: equal digests mean equal batches."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these examples, in this order."""

    def at(self, seed: Sequence[int]) -> Self:
        """The same examples with the randomness of augmentation drawn from ``seed`` (and the row) alone."""

    def picture(self) -> Any:
        """Some of them in one picture (a ``PIL.Image.Image``), as the model gets them; None where there is no such."""


def epoch_order(
    rows: int,
    lengths: Indices | None,
    batch_size: int,
    seed: Sequence[int],
    frequencies: Frequencies | None = None,
) -> list[Indices]:
    """The examples of each optimizer step of one epoch: a shuffled partition of ``range(rows)``.

    A pure function of its arguments. With ``frequencies``, as many examples are drawn with replacement instead, each
    that often relative to the others. With ``lengths``, the shuffled rows are sorted by length within stretches of
    ``BUCKET_STEPS`` steps, cut into steps, and the steps are shuffled again: little padding, still random.
    """
    rng = np.random.default_rng(list(seed))
    shares = None if frequencies is None else frequencies / frequencies.sum()
    order = rng.permutation(rows) if shares is None else rng.choice(rows, rows, p=shares)
    if lengths is None:
        return _cut(order, batch_size)
    stretches = _cut(order, batch_size * BUCKET_STEPS)
    steps = [step for s in stretches for step in _cut(s[np.argsort(lengths[s], kind="stable")], batch_size)]
    return [steps[index] for index in rng.permutation(len(steps))]


def evaluation_order(rows: int, lengths: Indices | None, batch_size: int) -> list[Indices]:
    """Every example once, longest first where there are lengths (so that memory runs out at once or never)."""
    order = np.arange(rows) if lengths is None else np.argsort(-lengths, kind="stable")
    return _cut(order, batch_size)


def micro_batches(step: Indices, accumulation: int, rank: int = 0, world_size: int = 1) -> list[Indices]:
    """The pieces of a step that one process computes, one after the other.

    None of them is empty; there are none at all where the step has too few rows for all processes.
    """
    pieces = np.array_split(step, accumulation * world_size)
    return [piece for piece in pieces[rank * accumulation : (rank + 1) * accumulation] if len(piece)]


def epoch_steps(
    examples: Examples,
    batch_size: int,
    seed: Sequence[int],
    accumulation: int = 1,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[int, list[Batch]]]:
    """The optimizer steps of one epoch: how many rows each has in all, and this process's batches of it.

    Every process has at least one batch in every step, or it would leave the others waiting: where there are too few
    rows, the step's first row with weight 0.
    """
    order = epoch_order(len(examples), examples.lengths, batch_size, seed, examples.frequencies)
    own = [micro_batches(step, accumulation, rank, world_size) for step in order]
    wanted = [piece for step, pieces in zip(order, own, strict=True) for piece in pieces or [step[:1]]]
    batches = load(examples, wanted, workers)
    for step, pieces in zip(order, own, strict=True):
        yield len(step), [next(batches) for _ in pieces] or [replace(next(batches), weight=0.0)]


def load(examples: Examples, batches: Sequence[Indices], workers: int = 0) -> Iterator[Batch]:
    """The batches in the order given, read ahead by ``workers`` processes where that can be worth it.

    Raises:
        HftlError: what the examples raise, as they raise it.
    """
    pinned = torch.cuda.is_available()
    if not (workers and examples.read_ahead):  # a loader in between would cost more than a batch of stored features
        read = (examples.__getitems__(batch.tolist()) for batch in batches)
        return (batch.pin_memory() for batch in read) if pinned else read
    loader: DataLoader[Any] = DataLoader(
        _Told(examples),  # type: ignore[arg-type]  # the loader needs __len__ and __getitems__ alone when it is given batches
        batch_sampler=[batch.tolist() for batch in batches],
        collate_fn=_unchanged,  # type: ignore[arg-type]  # a batch is collated already
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # else the loader draws a base seed from the global one, moving every dropout
    )
    return map(_batch, loader)


@dataclass(frozen=True)
class _Told:
    """Examples for a loader's process: an ``HftlError`` leaves it as a value.

    One that is raised there the loader raises again with a traceback for its message, and what it was raised with lost.
    """

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> Batch | HftlError:
        try:
            return self.examples.__getitems__(indices)
        except HftlError as error:
            return error


def _batch(told: Batch | HftlError) -> Batch:
    if isinstance(told, HftlError):
        raise told
    return told


def _unchanged(told: Batch | HftlError) -> Batch | HftlError:
    return told


def _cut(order: Indices, size: int) -> list[Indices]:
    return [order[start : start + size] for start in range(0, len(order), size)]
