"""Layer groups and a phase -> parameter groups -> optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hftl.model.layers import LayerGroups
from hftl.recipe.phase import Phase


def parameter_groups(model: nn.Module, groups: LayerGroups, phase: Phase) -> list[dict[str, Any]]:
    """What trains, by layer group and by whether it decays, as AdamW wants it.

    Each has ``names``, ``group`` and ``lr_scale`` beside ``params`` and ``weight_decay``. Vectors and scalars
    (norms, biases) have no weight decay; frozen parameters are in no group at all.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = []
    for group, names in groups.parameters.items():
        own = [name for name in names if name in trainable]
        for decays in (True, False):
            chosen = [name for name in own if (trainable[name].ndim > 1) is decays]
            if chosen:
                found.append(
                    {
                        "params": [trainable[name] for name in chosen],
                        "names": chosen,
                        "group": group,
                        "lr_scale": groups.lr_scale(group, phase.layer_decay),
                        "weight_decay": phase.weight_decay if decays else 0.0,
                    }
                )
    return found


def build_optimizer(model: nn.Module, groups: LayerGroups, phase: Phase) -> torch.optim.AdamW:
    """AdamW over what trains in this phase. Learning rates are set before each step by ``set_lr``.

    Source: decoupled weight decay, Loshchilov and Hutter 2019.
    """
    return torch.optim.AdamW(parameter_groups(model, groups, phase), lr=0.0, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group ``lr`` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def update_average(optimizer: torch.optim.Optimizer, decay: float, step: int) -> None:
    """Move the average of each trained parameter, kept in the optimizer's state, towards the parameter.

    The decay is at most (1 + step) / (10 + step), so that the average of a short run is not that of its beginning.
    Source: the exponential moving average of TensorFlow (``num_updates``).
    """
    found = [(p, optimizer.state[p]) for group in optimizer.param_groups for p in group["params"] if optimizer.state[p]]
    for parameter, state in found:
        if "average" not in state:
            state["average"] = parameter.detach().clone()
    averages, now = [state["average"] for _, state in found], [parameter.detach() for parameter, _ in found]
    if found:  # the first steps of fp16 may have been skipped
        torch._foreach_lerp_(averages, now, 1 - min(decay, (1 + step) / (10 + step)))


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Parameters are their averages inside, where ``update_average`` has made any, and themselves again afterwards."""
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


def _swap(optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for parameter, state in optimizer.state.items():
            if "average" in state:
                held = parameter.clone()
                parameter.copy_(state["average"])
                state["average"].copy_(held)
