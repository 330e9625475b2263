"""The last layer of a head, where it is linear: found by trying, solved on what goes into it, scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from hftl.data.batches import Batch, Examples, Loss, load
from hftl.data.sampling import rarest
from hftl.model.layers import modes_kept
from hftl.model.solver import Rows, Solution, solve
from hftl.recipe.phase import Phase

LOGITS = "logits"
Reduce = Callable[[Any, Batch], Mapping[str, torch.Tensor]]
"""What is kept of a batch's outputs. See ``Task.reduce``."""
ROWS = 256
"""Rows that go through the head at once."""


@dataclass(frozen=True)
class LastLayer:
    """A linear layer whose outputs are the logits, and whether all else that trains lies in it."""

    name: str
    module: nn.Linear
    alone: bool


def last_layer(model: nn.Module, examples: Examples, reduce: Reduce, device: torch.device) -> LastLayer | None:
    """The linear layer that makes the logits; None where there is no such, as in heads with an answer a token.

    Found by trying: with the layer taken out, the model's "logits" are what goes into it, one vector a row, and another
    layer in its place makes of these the logits that the model gives then. Another, for the bias of a new head is zero,
    and does not show where logits are scaled behind it. Models may choose a token of each row behind it.

    Args:
        model: as it computes in this phase, on stored features.
        examples: its rows.
        reduce: the task's; what the logits of a batch are.
        device: of the model.
    """
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m.weight) in trained]
    batch = examples.__getitems__(np.linspace(0, len(examples) - 1, min(3, len(examples))).round().astype(int).tolist())
    batch = batch.to(device)
    with modes_kept(model), torch.no_grad():
        model.eval()
        logits = reduce(model(**batch.inputs), batch).get(LOGITS)
        for name, module in reversed(linear):
            if logits is None or logits.ndim != 2 or logits.shape[1] != module.out_features:
                continue
            other = _another(module)
            try:
                with taken_out(module):
                    entering = reduce(model(**batch.inputs), batch)[LOGITS]
                with taken_out(module, other):
                    expected = reduce(model(**batch.inputs), batch)[LOGITS]
            except (RuntimeError, ValueError, IndexError, TypeError):
                continue  # what comes behind it takes no other width
            if entering.shape != (len(batch), module.in_features):
                continue
            own = {id(parameter) for parameter in module.parameters()}
            if _near(other(entering), expected):
                return LastLayer(name, module, trained == own)
    return None


def rows_of(
    model: nn.Module, layer: nn.Linear, views: Sequence[Examples], reduce: Reduce, device: torch.device
) -> Rows:
    """What the layer is to be fitted to: all examples, in each of their views.

    Args:
        model: as it computes in this phase, on stored features.
        layer: of it, as ``last_layer`` found it.
        views: examples that are alike but for their features.
        reduce: the task's; what the logits of a batch are.
        device: of the model.
    """
    found, targets = [], []
    with modes_kept(model), torch.no_grad(), taken_out(layer):
        model.eval()
        for examples in views:
            order = [np.arange(start, min(start + ROWS, len(examples))) for start in range(0, len(examples), ROWS)]
            for batch in load(examples, order):
                on_device = batch.to(device)
                found.append(reduce(model(**on_device.inputs), on_device)[LOGITS].float().cpu())
                assert batch.targets is not None  # training rows have them
                targets.append(batch.targets)
    known, first = torch.cat(targets), views[0]
    strata = known.numpy() if known.ndim == 1 else rarest(known.numpy() > 0.5)
    owners = np.arange(len(first)) if first.owners is None else first.owners
    weights = None if first.frequencies is None else torch.from_numpy(np.tile(first.frequencies, len(views)))
    return Rows(torch.cat(found), known, strata, np.tile(owners, len(views)), weights)


def solve_head(rows: Rows, layer: nn.Linear, loss: Loss, phase: Phase, seed: int) -> Solution:
    """The layer's optimum on these rows, as the phase declares."""

    def of_rows(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss(SimpleNamespace(logits=logits), Batch({}, targets, torch.arange(len(targets))))

    outputs, bias = layer.out_features, layer.bias is not None
    return solve(rows, of_rows, outputs, bias, phase.penalty, phase.temperature, seed)


def put_in(solution: Solution, layer: nn.Linear) -> None:
    """Give the layer the weights of a solution."""
    with torch.no_grad():
        layer.weight.copy_(solution.weight)
        if solution.bias is not None:
            layer.bias.copy_(solution.bias)


def scale(layer: nn.Linear, factor: float) -> None:
    """Multiply the logits that the layer makes."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(factor)


@contextmanager
def taken_out(layer: nn.Module, other: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Iterator[None]:
    """Inside, the layer returns what goes into it, or what another makes of it."""
    before: Mapping[str, Any] = dict(vars(layer))
    vars(layer)["forward"] = other or _unchanged
    try:
        yield
    finally:
        vars(layer).pop("forward")
        if "forward" in before:
            vars(layer)["forward"] = before["forward"]


def _unchanged(values: torch.Tensor) -> torch.Tensor:
    return values


def _another(layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """A layer of the same shape with random weights and, if the layer has one, a bias; always the same."""
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(layer.weight.shape, generator=drawn).to(layer.weight)
    bias = None if layer.bias is None else torch.randn(layer.bias.shape, generator=drawn).to(layer.bias)
    return lambda values: nn.functional.linear(values, weight, bias)


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for rounding, which in mixed precision is that of bfloat16."""
    return bool(
        torch.allclose(one.float(), other.float(), rtol=0.05, atol=0.05 * float(other.abs().max().clamp(min=1e-3)))
    )
