"""Layer groups: which parameter lies how deep; freezing and unfreezing by depth.

The order of depth is ``stem``, ``block 0`` … ``block n-1``, ``neck``, ``head``. Freezing a group stops its gradient
*and* puts its modules into eval mode, so that neither dropout nor running statistics touch what is frozen.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

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

_DECODER_NORM = {r"\.decoder\.layernorm_embedding\.": "stem"}
_FINAL_NORM = {r"\.encoder\.layer_norm\.": "neck"}
"""Of wav2vec2 and its kin where they normalise behind the blocks (``do_stable_layer_norm``); the others before."""
_LATER_PATCHES = {r"\.patch_embeddings\.([1-9])\.": r"block \1"}
_LISTS_OF_PARTS = {r"\.(?:attentions|layer_norm1|ffns|layer_norm2)\.(\d+)\.": r"block \1"}

FAMILY_GROUPS: Mapping[str, Mapping[str, str]] = {
    "bart": _DECODER_NORM,
    "bigbird_pegasus": _DECODER_NORM,
    "deberta": {r"\.encoder\.(rel_embeddings|LayerNorm)\.": "stem"},
    "deberta-v2": {r"\.encoder\.(rel_embeddings|LayerNorm)\.": "stem", r"\.encoder\.conv\.": "block 0"},
    "flaubert": _LISTS_OF_PARTS,
    "gte": {r"\.pooler\.": "neck"},
    "layoutlmv3": {r"\.encoder\.rel_pos": "stem"},
    "mbart": _DECODER_NORM,
    "mpnet": {r"\.relative_attention_bias\.": "stem"},
    "mvp": _DECODER_NORM,
    "nomic_bert": {r"\.pooler\.": "neck"},
    "opt": {r"\.decoder\.(final_layer_norm|project_out)\.": "neck"},
    "plbart": _DECODER_NORM,
    "poolformer": _LATER_PATCHES,
    "pvt": _LATER_PATCHES,
    "xlm": _LISTS_OF_PARTS,
}
"""Parameters that a model family (``config.model_type``) defines elsewhere than it uses them, and their groups.

Regular expression -> group, as in ``Recipe.layer_groups``, which goes over it.
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
        r"""Partition ``model``: blocks are the children of the backbone's largest outermost container.

        A timm model says itself what its blocks are. What is defined before the blocks is stem, what the backbone
        defines after them is neck (``FAMILY_GROUPS`` has the exceptions), all else is head. ALBERT, whose layers are
        all one and the same, has one block.

        ``overrides`` (regular expression -> group, which may hold what was matched: ``block \1``) decides for the
        parameters it matches; where no blocks are found, it declares them.

        Raises:
            HftlError: no backbone or blocks to be found, an override that names no group or matches nothing.
        """
        overrides = overrides or {}
        names = [name for name, _ in model.named_parameters()]
        head = set(head_parameters(model))
        backbone_name, backbone = find_backbone(model)
        family = _family_groups(getattr(backbone, "config", getattr(model, "config", None)))
        chosen = {**_assigned(family, names), **_assigned(overrides, names)}
        blocks = _own_blocks(backbone_name, backbone, head) or _declared_blocks(chosen)
        if not blocks:
            raise HftlError(
                f"{type(backbone).__name__} has no list of blocks; declare them with layer_groups, for example "
                '{"conv1": "block 0", "conv2": "block 1"}'
            )
        found: dict[str, list[str]] = {group: [] for group in _names(max(blocks.values()) + 1)}
        _check_overrides(model, overrides, found)
        if not head | {name for name, group in chosen.items() if group == "head"}:
            raise HftlError(
                f"{type(model).__name__} has no head outside its backbone; say with layer_groups what is its head"
            )
        first = next(index for index, name in enumerate(names) if name in blocks)
        for index, name in enumerate(names):
            place = "head" if name in head else "stem" if index < first else "neck"
            found[chosen.get(name) or (f"block {blocks[name]}" if name in blocks else place)].append(name)
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


def head_parameters(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of the head: those outside the backbone, and those of a timm backbone's classifier.

    Where ``base_model`` is the model itself, what it defines before the backbone is no head either.

    Raises:
        HftlError: the model has no backbone.
    """
    backbone_name, backbone = find_backbone(model)
    below = [backbone_name]
    if getattr(model, "base_model", model) is model:
        children = [name for name, _ in model.named_children()]
        below = children[: children.index(backbone_name) + 1]
    classifier: Any = getattr(backbone, "get_classifier", tuple)()  # of timm; distilled models have several
    modules = [classifier] if isinstance(classifier, nn.Module) else classifier
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    prefixes = tuple(f"{name}." for name in below)
    named = model.named_parameters()
    return tuple(name for name, p in named if not name.startswith(prefixes) or id(p) in inside)


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
    holders, frozen = set[str](), set[str]()
    """Names of the modules that have parameters, and of those that have frozen ones, themselves or in others."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        around = ["", *accumulate(name.split(".")[:-1], "{}.{}".format)]
        holders.update(around)
        frozen.update(() if trains[id(parameter)] else around)

    def visit(path: str, module: nn.Module, inherited: bool) -> None:
        module.training = path not in frozen if path in holders else inherited
        if isinstance(module, _BatchNorm) and not update_batch_norm:
            module.training = False
        for name, child in module.named_children():
            visit(f"{path}.{name}".lstrip("."), child, module.training)

    owner, _, own_name = groups.backbone.rpartition(".")
    visit("", model, False)
    for name, child in model.get_submodule(owner).named_children():
        path = f"{owner}.{name}".lstrip(".")
        if name != own_name and path not in holders:
            visit(path, child, True)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Every module is in the mode afterwards that it was in before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def fixed_statistics(model: nn.Module, when: bool) -> Iterator[None]:
    """Have BatchNorm compute with its running statistics and leave them as they are, if so: a single row has none."""
    modules = model.modules() if when else ()
    updating = [module for module in modules if isinstance(module, _BatchNorm) and module.training]
    for module in updating:
        module.training = False
    try:
        yield
    finally:
        for module in updating:
            module.training = True


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


def _family_groups(config: Any) -> Mapping[str, str]:
    """Those of the backbone's family, for a model inside another one has its own."""
    if getattr(config, "do_stable_layer_norm", False):
        return _FINAL_NORM
    return FAMILY_GROUPS.get(getattr(config, "model_type", ""), {})


def _names(blocks: int) -> list[str]:
    return ["stem", *(f"block {index}" for index in range(blocks)), "neck", "head"]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _own_blocks(backbone_name: str, backbone: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Name of a parameter -> number of its block, by the backbone's own structure; empty where it has none."""
    found = _timm_blocks(backbone) if hasattr(backbone, "group_matcher") else _blocks_in_container(backbone)
    named = {f"{backbone_name}.{name}": number for name, number in found.items()}
    return {name: number for name, number in named.items() if name not in head}


def _blocks_in_container(backbone: nn.Module) -> dict[str, int]:
    """The children of the largest outermost ModuleList or Sequential; those without parameters are no blocks."""
    containers = [module for module in backbone.named_modules() if isinstance(module[1], nn.ModuleList | nn.Sequential)]
    if not containers:
        return {}
    path, best = max(containers, key=lambda named: _size(named[1]))  # the first, outermost, of equals
    children = [(f"{path}.{name}", child) for name, child in best.named_children() if _size(child)]
    return {
        f"{prefix}.{name}": number
        for number, (prefix, child) in enumerate(children)
        for name, _ in child.named_parameters()
    }


def _timm_blocks(backbone: nn.Module) -> dict[str, int]:
    """The stages by which timm itself groups the layers; its first group is the stem, its last neck and head."""
    from timm.models import group_parameters

    matcher: Any = backbone.group_matcher
    _, *stages, _ = group_parameters(backbone, matcher(coarse=True)).values()
    return {name: number for number, stage in enumerate(stages) for name in stage}


def _assigned(table: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Name -> group, for the names that a regular expression of the table matches; the first that does decides.

    Raises:
        HftlError: an entry is no regular expression, or its group refers to nothing in it.
    """
    found: dict[str, str] = {}
    for pattern, group in table.items():
        try:
            matches = {name: match for name in names if (match := re.search(pattern, name))}
            found = {name: match.expand(group) for name, match in matches.items()} | found
        except re.error as error:
            raise HftlError(f"layer_groups: {pattern!r} is no regular expression: {error}") from None
    return found


def _declared_blocks(chosen: Mapping[str, str]) -> dict[str, int]:
    numbers = {name: re.fullmatch(r"block (\d+)", group) for name, group in chosen.items()}
    return {name: int(found[1]) for name, found in numbers.items() if found}


def _check_overrides(model: nn.Module, overrides: Mapping[str, str], groups: Collection[str]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern, group in overrides.items():
        goes_to = set(_assigned({pattern: group}, names).values())
        for wrong in sorted(goes_to - set(groups)):
            raise HftlError(
                f"layer_groups: {pattern!r} goes to {wrong!r}, which is no group; there are {', '.join(groups)}"
            )
        if not goes_to:
            raise HftlError(f"layer_groups: {pattern!r} matches no parameter of {type(model).__name__}")
