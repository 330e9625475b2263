"""Whether the trained part of a model gives the same from what a store keeps as the whole model gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hftl.data.batches import Batch, Examples
from hftl.errors import NotStoredError, one_line
from hftl.features.examples import arrays_of, restored
from hftl.features.replay import FEATURES, MASK, Cut, Replay, capture, draws_before, find_cut
from hftl.model.layers import modes_kept
from hftl.prepare import Prepared


def exact_cut(ready: Prepared, model: Any, splits: Sequence[str], device: torch.device) -> Cut:
    """Where the trained part of the model begins, seen to give the same there from stored activations.

    Compared on real batches: outputs in eval mode, outputs in train mode under one seed, and every gradient, a missing
    one included: what looks at weights between the frozen layers gives the right values and no gradient. On each split,
    for one may have what another has not: rows that differ in length, say. Where rows of one length have a mask, how
    much of a row is padding is not known beforehand (as with windows of recordings), and some is made.

    Raises:
        NotStoredError: it does not.
    """
    each = [ready.examples(split) for split in splits]
    # Where all rows have one shape, those to train on show what there is to be seen.
    some = [(examples, _spread(examples)) for examples in each if examples is each[0] or examples.lengths is not None]
    shortest, low = min(some, key=lambda pair: _length(pair[0], pair[1][0]))
    longest, high = max(some, key=lambda pair: _length(pair[0], pair[1][-1]))
    one = shortest.__getitems__([low[0], low[0]]).to(device)
    other = longest.__getitems__(high).to(device)
    batches = [examples.__getitems__(rows).to(device) for examples, rows in some]
    if each[0].lengths is None and MASK in batches[0].inputs:
        batches.append(_padded(batches[0]))
    problem = NotStoredError("none")
    for needs_inputs in (False, True):
        try:
            cut = find_cut(model, [one.inputs, other.inputs], needs_inputs)
            for batch in batches:
                _compare(ready, model, cut, batch)
        except NotStoredError as error:
            problem = error
        else:
            return cut
    raise problem


def _spread(examples: Examples) -> list[int]:
    """Three rows, from the shortest to the longest."""
    order = np.arange(len(examples)) if examples.lengths is None else np.argsort(examples.lengths, kind="stable")
    found: list[int] = order[np.linspace(0, len(order) - 1, 3).round().astype(int)].tolist()
    return found


def _length(examples: Examples, row: int) -> int:
    return 0 if examples.lengths is None else int(examples.lengths[row])


def _padded(batch: Batch) -> Batch:
    """The batch with half of every second row called padding: rows of one length may all be full, and others not."""
    mask = batch.inputs[MASK].clone()
    mask[1::2, mask.shape[1] // 2 :] = 0
    return replace(batch, inputs={**batch.inputs, MASK: mask})


def _compare(ready: Prepared, model: Any, cut: Cut, batch: Batch) -> None:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with modes_kept(model):
        kept = arrays_of(cut, capture(model, cut, batch.inputs), batch)[FEATURES]
        part = replace(batch, inputs={name: tensor[:2] for name, tensor in batch.inputs.items()})
        alone = arrays_of(cut, capture(model, cut, part.inputs), part)[FEATURES]
    # Rounding depends on the rows that are computed together; it is by far smaller.
    if not (kept[: len(alone)] - alone).abs().max() <= 0.05 * kept.abs().max():
        raise NotStoredError("what a row gives depends on the others in its batch")
    with _buffers_kept(model):
        if draws_before(model, cut, batch.inputs):
            raise NotStoredError(f"what goes into {cut.module} is drawn at random in training")
    features = restored(cut, kept, batch.inputs.get(MASK))

    def seen(function: Any, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        with modes_kept(model), torch.no_grad():
            model.eval()
            found: dict[str, torch.Tensor | None] = {
                f"eval {name}": value for name, value in ready.recipe.task.reduce(function(**given), batch).items()
            }
        with _buffers_kept(model), torch.random.fork_rng():
            torch.manual_seed(0)
            outputs = function(**given)
            loss = ready.loss(outputs, batch).sum()
            gradients = torch.autograd.grad(loss, [*trained.values()], allow_unused=True)
        found |= {f"train {name}": value.detach() for name, value in ready.recipe.task.reduce(outputs, batch).items()}
        return {**found, **dict(zip(trained, gradients, strict=True))}

    try:
        replayed = seen(Replay(model, cut), {FEATURES: features, **(batch.inputs if cut.needs_inputs else {})})
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise NotStoredError(f"without its frozen layers the model fails ({one_line(error, 100)})") from None
    for name, expected in seen(model, batch.inputs).items():
        if not _same(expected, replayed[name]):
            raise NotStoredError(f"behind its frozen layers the model needs more than what goes into {cut.module}")


@contextmanager
def _buffers_kept(model: Any) -> Iterator[None]:
    """Running statistics are afterwards what they were before."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Equal: to the last bit on a CPU; a GPU adds gradients up in any order."""
    if one is None or other is None:
        return one is other
    if one.device.type == "cpu":
        return torch.equal(one, other)
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=1e-3, atol=1e-5))
