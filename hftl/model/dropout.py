"""Dropout that costs little on a CPU, for a model's own dropout layers and inside its attention.

PyTorch draws one number after the other there, in one thread (its parallel generator is for Intel processors alone),
and attention with dropout leaves its fast kernel for one in float32. Rows a second of a full training step of MiniLM
(6 layers, bfloat16, 2 cores of an AMD EPYC) by PyTorch and so: 118 and 152 at 32 tokens, 28 and 41 at 128 (both 32 rows
a step), 8.7 and 15.5 at 256 (16 rows).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hftl.quiet import quiet_transformers

SMALL = 1 << 14
"""Fewer values than this are not worth another way."""
LEVELS = 1 << 16
"""Bits of randomness a value, as a number: a probability is rounded to one part in so many."""
ATTENTION = "hftl"
"""The name of ``attention`` among the implementations of ``transformers``."""
ELSEWHERE = ("position_bias", "cache", "softcap", "s_aux")
"""What ``attention`` leaves to the usual implementation, where it is given."""


def dropout(values: torch.Tensor, p: float, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """``torch.nn.functional.dropout`` from 16 bits of torch's generator a value; of any shape and floating type.

    12.6 million values in bfloat16, one thread: 26 ms, and 70 ms by PyTorch, of which more threads help with less.
    """
    kept = round(LEVELS * (1 - p))
    here = values.device.type == "cpu" and values.numel() >= SMALL and not torch.compiler.is_compiling()
    if not (training and here and 0 < kept < LEVELS):
        return functional.dropout(values, p, training, inplace)
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: values.numel()].view(values.shape)
    scale = (bits < kept - LEVELS // 2).to(values.dtype).mul_(LEVELS / kept)
    return values.mul_(scale) if inplace else values * scale


class Dropout(nn.Dropout):
    """``torch.nn.Dropout`` by ``dropout``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """See ``torch.nn.Dropout``."""
        return dropout(input, self.p, self.training, self.inplace)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An ``AttentionInterface``: PyTorch's own kernels, but with dropout in plain products of matrices.

    Args:
        module: The attention layer.
        query: Shape (rows, heads, length, size).
        key: Of the same shape, as is ``value``.
        value: What is averaged.
        attention_mask: What may be seen, or what is added to the scores; shape (rows, 1 or heads, length, length).
        dropout: Probability; 0 outside of training.
        scaling: Of the scores; None: one by the root of ``size``.
        options: Of ``sdpa_attention_forward``.

    Returns:
        Shape (rows, length, heads, size); and None.
    """
    causal = attention_mask is None and options.get("is_causal", getattr(module, "is_causal", False))
    usual = any(options.get(name) is not None for name in ELSEWHERE) or key.shape[1] != query.shape[1] or causal
    if dropout == 0 or query.device.type != "cpu" or usual:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return result
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + _added(attention_mask, scores.dtype)
    weights = _dropout(functional.softmax(scores, dim=-1), dropout)
    return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).contiguous(), None


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask as what is added to scores: nothing, or the least there is."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


_dropout = dropout  # ``transformers`` wants its own name for the probability
AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def put_in(model: nn.Module) -> None:
    """Have a model's dropout layers, and its attention where it is PyTorch's, compute so, until ``take_out``."""
    _swap(model, nn.Dropout, Dropout, "sdpa", ATTENTION)


def take_out(model: nn.Module) -> None:
    """Undo ``put_in``."""
    _swap(model, Dropout, nn.Dropout, ATTENTION, "sdpa")


def _swap(model: nn.Module, layer: type, other_layer: type, name: str, other_name: str) -> None:
    for module in model.modules():
        if type(module) is layer:
            module.__class__ = other_layer
    if getattr(getattr(model, "config", None), "_attn_implementation", None) == name:
        with quiet_transformers():  # some models cannot change it, and keep theirs
            model.set_attn_implementation(other_name)  # type: ignore[operator]  # of PreTrainedModel
