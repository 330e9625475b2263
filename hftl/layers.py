"""Layer groups: which parameter lies how deep; freezing and unfreezing by depth.

The order of depth is ``stem``, ``block 0`` … ``block n-1``, ``neck``, ``head``. Freezing a group stops its gradient
*and* puts its modules into eval mode, so that neither dropout nor running statistics touch what is frozen.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hftl.errors import HftlError

NECK_STARTS = {"bert": "neck"}
"""Model families whose strategies start with the neck, not the head alone.

BERT classifies what its pooler makes of the first token, and a pooler is seldom trained for that. Film-review snippets,
MiniLM, 2,000 rows, seed 0, 2 CPU cores: validation accuracy 0.670 with the head alone, 0.718 with the neck
(``hftl fit text-classification --task.data samples/data/movie-reviews --task.max-length 64 --task.max-rows 2000 --model
samples/models/minilm-l6 --phases linear-probe --phases.0.unfreeze head``, and ``neck``).
"""


@dataclass(frozen=True)
class LayerGroups:
    """The ordered partition of all parameters of a model by depth.

    ``parameters`` maps every group, from the input to the head, to the names of its parameters (stem and neck may
    be empty); every parameter is in exactly one group. ``backbone`` is the name of the backbone's module.
    """

    parameters: Mapping[str, tuple[str, ...]]
    backbone: str

    @classmethod
    def of(cls, model: nn.Module, overrides: Mapping[str, str] | None = None) -> LayerGroups:
        """Partition ``model``: blocks are the children of the backbone's largest outermost container.

        What the backbone defines before its blocks is stem, what it defines after them is neck, all else is head.
        ``overrides`` (regular expression -> group) decides for the parameters it matches; where no blocks are found,
        it declares them.

        Raises:
            HftlError: no backbone or blocks to be found, an override that names no group or matches nothing.
        """
        overrides = overrides or {}
        for pattern in overrides:
            try:
                re.compile(pattern)
            except re.error as error:
                raise HftlError(f"layer_groups: {pattern!r} is no regular expression: {error}") from None
        backbone_name, backbone = find_backbone(model)
        prefix = f"{backbone_name}."
        blocks = [f"{prefix}{name}." for name in _block_names(backbone)]
        count = len(blocks) or _declared_blocks(overrides)
        if not count:
            raise HftlError(
                f"{type(backbone).__name__} has no list of blocks; declare them with layer_groups, for example "
                '{"conv1": "block 0", "conv2": "block 1"}'
            )
        inside = [name for name, _ in model.named_parameters() if name.startswith(prefix)]
        first = next((i for i, name in enumerate(inside) if name.startswith(tuple(blocks))), len(inside))
        found: dict[str, list[str]] = {group: [] for group in _names(count)}
        for name, _ in model.named_parameters():
            group = next((group for pattern, group in overrides.items() if re.search(pattern, name)), None)
            if group not in found:  # none, or a wrong one, which _check_overrides reports
                group = _group_of(name, prefix, blocks, inside, first)
            found[group].append(name)
        _check_overrides(model, overrides, found)
        return cls({group: tuple(names) for group, names in found.items()}, backbone_name)

    @property
    def names(self) -> tuple[str, ...]:
        """Group names from the input to the head."""
        return tuple(self.parameters)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self.parameters) - 3

    def unfrozen(self, unfreeze: int | float | str) -> frozenset[str]:
        """The groups that train at a depth (see ``Phase.unfreeze``); more depth is always a superset of less.

        Raises:
            HftlError: more blocks than there are, or ``auto``, which has to be resolved before.
        """
        if unfreeze == "all":
            return frozenset(self.names)
        if isinstance(unfreeze, str):
            if unfreeze not in ("head", "neck"):
                raise HftlError(f"unfreeze: {unfreeze!r} is not resolved to a depth; use head or neck")
            return frozenset({"head", unfreeze})
        top = math.ceil(unfreeze * self.blocks) if isinstance(unfreeze, float) else unfreeze
        if top > self.blocks:
            raise HftlError(
                f"unfreeze: {top} blocks of a model that has {self.blocks}; use at most {self.blocks}, or all"
            )
        return frozenset(self.names[-2 - top :])

    def lr_scale(self, group: str, layer_decay: float) -> float:
        """The factor on the learning rate of ``group``: 1 for head and neck, then one ``layer_decay`` a block down.

        Source: layer-wise decay as in ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022).
        """
        return float(layer_decay ** max(0, len(self.names) - 2 - self.names.index(group)))

    def group_of_parameter(self) -> dict[str, str]:
        """Parameter name -> group."""
        return {name: group for group, names in self.parameters.items() for name in names}


def find_backbone(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the pretrained part.

    Where ``base_model`` is the model itself, the backbone is its child with the most parameters.

    Raises:
        HftlError: the model has neither.
    """
    base = getattr(model, "base_model", model)
    if base is not model:
        return next((name, module) for name, module in model.named_modules() if module is base)
    children = [(name, child) for name, child in model.named_children() if _size(child)]
    if not children:
        raise HftlError(f"{type(model).__name__} has no backbone: none of its modules has parameters")
    return max(children, key=lambda pair: _size(pair[1]))


def start_of(model_type: str) -> str:
    """With which group a strategy starts on this model family (``config.model_type``): ``head`` or ``neck``."""
    return NECK_STARTS.get(model_type, "head")


def freeze(model: nn.Module, groups: LayerGroups, unfreeze: int | float | str, train: str = "weights") -> None:
    """Let exactly what trains require gradients, and drop all gradients.

    Of the unfrozen groups, head and neck train whole; of stem and blocks, ``train`` says what (see ``Phase.train``).

    Raises:
        HftlError: what ``train`` names does not occur in the unfrozen blocks.
    """
    unfrozen, group_of = groups.unfrozen(unfreeze), groups.group_of_parameter()
    wanted = _wanted(model, train)
    if train in ("bias", "norm") and not any(group_of[n] in unfrozen - {"head", "neck"} for n in wanted):
        raise HftlError(f"train: {train}: the unfrozen blocks of {type(model).__name__} have none; use train: weights")
    for name, parameter in model.named_parameters():
        group = group_of[name]
        parameter.requires_grad_(group in unfrozen and (group in ("head", "neck") or name in wanted))
        parameter.grad = None


def _wanted(model: nn.Module, train: str) -> set[str]:
    """Names of the parameters that ``train`` means, wherever they lie."""
    names = {name for name, _ in model.named_parameters()}
    if train == "bias":
        return {name for name in names if name.endswith("bias")}
    if train == "norm":
        norms = [path for path, module in model.named_modules() if "norm" in type(module).__name__.lower()]
        return {name for name in names if name.rpartition(".")[0] in norms}
    if train == "lora":
        return {name for name in names if ".lora_" in name}
    return names


def set_modes(
    model: nn.Module, groups: LayerGroups, unfreeze: int | float | str, update_batch_norm: bool = False
) -> None:
    """Put each module into train or eval mode by the groups its parameters lie in.

    A module is in train mode only if it has parameters and all of them lie in unfrozen groups, or if it has none and
    its nearest ancestor with parameters is in train mode. So containers that are unfrozen in part are in eval mode
    (wav2vec2 would drop frozen layers at random otherwise). The root's own parameter-free modules outside the backbone
    (dropout before the classifier) belong to the head, which always trains. BatchNorm is in train mode only with
    ``update_batch_norm``.
    """
    unfrozen, group_of = groups.unfrozen(unfreeze), groups.group_of_parameter()
    trains = {id(parameter): group_of[name] in unfrozen for name, parameter in model.named_parameters()}

    def visit(module: nn.Module, inherited: bool) -> None:
        own = [trains[id(parameter)] for parameter in module.parameters()]
        module.training = all(own) if own else inherited
        if isinstance(module, _BatchNorm) and not update_batch_norm:
            module.training = False
        for child in module.children():
            visit(child, module.training)

    owner, _, own_name = groups.backbone.rpartition(".")
    visit(model, False)
    for name, child in model.get_submodule(owner).named_children():
        if name != own_name and not list(child.parameters()):
            visit(child, True)


def frozen_digests(model: nn.Module) -> dict[str, bytes]:
    """A digest of every frozen tensor: parameters without gradient, buffers of modules in eval mode.

    Call it after ``freeze`` and ``set_modes``. Equal digests mean bit-equal tensors.
    """
    frozen = {name: tensor for name, tensor in model.named_parameters() if not tensor.requires_grad}
    for path, module in model.named_modules():
        if not module.training:
            frozen |= {f"{path}.{name}".lstrip("."): tensor for name, tensor in module.named_buffers(recurse=False)}
    return {name: _digest(tensor) for name, tensor in frozen.items()}


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """One digest of many named tensors; equal digests mean bit-equal tensors under the same names."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        total.update(name.encode() + _digest(tensor))
    return total.hexdigest()


def running_statistics(model: nn.Module) -> list[torch.Tensor]:
    """The running means and variances of the BatchNorm layers that are in train mode."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    return [buffer for layer in layers for buffer in layer.buffers() if buffer.is_floating_point()]


def _digest(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    if not plain.numel():
        return b""
    return hashlib.blake2b(plain.reshape(-1).view(torch.uint8).numpy().data, digest_size=16).digest()


def _names(blocks: int) -> list[str]:
    return ["stem", *(f"block {index}" for index in range(blocks)), "neck", "head"]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _block_names(backbone: nn.Module) -> list[str]:
    """Dotted names, within the backbone, of the children of its largest outermost ModuleList or Sequential.

    Children without parameters are no blocks; there may be none at all.
    """
    containers = [
        name for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    if not containers:
        return []
    best = max(containers, key=lambda name: _size(backbone.get_submodule(name)))  # the first, outermost, of equals
    children = [(name, child) for name, child in backbone.get_submodule(best).named_children() if _size(child)]
    return [f"{best}.{name}" for name, _ in children]


def _declared_blocks(overrides: Mapping[str, str]) -> int:
    numbers = [int(group.split()[1]) for group in overrides.values() if re.fullmatch(r"block \d+", group)]
    return max(numbers, default=-1) + 1


def _group_of(name: str, prefix: str, blocks: list[str], inside: list[str], first: int) -> str:
    if not name.startswith(prefix):
        return "head"
    for index, block in enumerate(blocks):
        if name.startswith(block):
            return f"block {index}"
    return "stem" if inside.index(name) < first else "neck"


def _check_overrides(model: nn.Module, overrides: Mapping[str, str], groups: Iterable[str]) -> None:
    for pattern, group in overrides.items():
        if group not in groups:
            raise HftlError(
                f"layer_groups: {pattern!r} goes to {group!r}, which is no group; there are {', '.join(groups)}"
            )
        if not any(re.search(pattern, name) for name, _ in model.named_parameters()):
            raise HftlError(f"layer_groups: {pattern!r} matches no parameter of {type(model).__name__}")
