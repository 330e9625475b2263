"""Low-rank adapters beside frozen weights, through peft: put in, merged, kept as an ordinary peft folder."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.pytorch_utils import Conv1D

from hftl.errors import HftlError
from hftl.model.layers import LayerGroups
from hftl.recipe.phase import LoRA

CONFIG = "adapter_config.json"
"""What makes a folder one of peft's."""


def targets(model: nn.Module, groups: LayerGroups, unfreeze: int | float | str, lora: LoRA) -> list[str]:
    """Names of the modules that get adapters: the linear layers and convolutions of the unfrozen blocks.

    Grouped (depthwise) convolutions are left out: an update of low rank would have no fewer parameters than they have.

    Raises:
        HftlError: there are none, or ``lora.targets`` matches none of them.
    """
    inside = {
        name for group in groups.unfrozen(unfreeze) if group.startswith("block") for name in groups.parameters[group]
    }
    able = [name for name, module in model.named_modules() if _adaptable(module) and f"{name}.weight" in inside]
    if not able:
        raise HftlError(f"train: lora: no linear layer or convolution in the unfrozen blocks of {type(model).__name__}")
    chosen = [name for name in able if re.search(lora.targets or "", name)]
    if not chosen:
        raise HftlError(f"lora.targets: {lora.targets!r} matches none of the {len(able)} there are, such as {able[0]}")
    return chosen


def inject(model: nn.Module, names: Sequence[str], lora: LoRA) -> None:
    """Put an adapter beside each of these modules, in place. Until it is trained, the model computes what it did.

    A's initialisation draws from torch's global generator: seed it before.
    """
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that transformers will change, and GPT-2's transposed weights
        inject_adapter_in_model(_config(names, lora), model)
    for name in names:
        adapted: Any = model.get_submodule(name)
        for constant in adapted.base_layer.__constants__ if isinstance(adapted.base_layer, nn.Conv2d) else ():
            setattr(adapted, constant, getattr(adapted.base_layer, constant))  # MobileNets pad by their layers' stride


def regroup(model: nn.Module, groups: LayerGroups) -> LayerGroups:
    """The layer groups of a model with adapters, from those it has without: an adapter is where its weight is."""
    group_of, found = groups.group_of_parameter(), {group: list[str]() for group in groups.names}
    for name, _ in model.named_parameters():
        module, adapter, _ = name.partition(".lora_")
        found[group_of[f"{module}.weight" if adapter else name.replace(".base_layer.", ".")]].append(name)
    return LayerGroups({group: tuple(names) for group, names in found.items()}, groups.backbone)


def merge(model: nn.Module) -> None:
    """Add the adapters' updates to the weights beside them and take the adapters out; nothing where there are none."""
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return  # to import peft takes longer than to look
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in [*model.named_modules()]:
        if isinstance(module, BaseTunerLayer):
            module.merge()
            owner, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(owner), own_name, module.get_base_layer())
    vars(model).pop("peft_config", None)


def save(folder: Path, model: Any, groups: LayerGroups, lora: LoRA, base: str) -> None:
    """Write the adapters as an ordinary peft folder over the checkpoint ``base``, whole or not at all.

    The modules of neck and head, and all BatchNorm layers, go with them whole (peft's ``modules_to_save``). Nothing is
    written where that cannot be said: a parameter of the head that lies in no module but the model itself.

    Args:
        folder: Where to; replaced.
        model: With its adapters.
        groups: Of the same model (see ``regroup``).
        lora: What they were made with.
        base: Folder or Hub name of the checkpoint; all else in ``model`` is bit-equal to it.
    """
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = {name.rpartition(".")[0] for group in ("neck", "head") for name in groups.parameters[group]}
    if "" in whole:
        return
    whole |= {name for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.rpartition(".")[0] in whole}
    tensors |= get_peft_model_state_dict(model)
    config = _config([name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)], lora)
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    config.modules_to_save, config.inference_mode = sorted(whole), True
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    config.save_pretrained(draft)
    plain = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, draft / "adapter_model.safetensors", {"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def base_of(folder: str | Path) -> str | None:
    """The checkpoint that a peft folder's adapters belong to; None where it is no peft folder."""
    config = Path(folder) / CONFIG
    if not config.is_file():
        return None
    return str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])


def restore(folder: str | Path, model: Any) -> Any:
    """The checkpoint's model with the adapters of a peft folder merged into it, and the modules kept whole in it."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in ``inject``
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


def _config(names: Sequence[str], lora: LoRA) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, use_dora=lora.dora, target_modules=[*names]
    )


def _adaptable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def kept_whole(folder: str | Path) -> set[str]:
    """Names of the parameters that a peft folder holds whole, beside its adapters."""
    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        return {name.removeprefix("base_model.model.") for name in file.keys() if ".lora_" not in name}  # noqa: SIM118
