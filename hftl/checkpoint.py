"""Where a run stands, saved whole or not at all, in safetensors and JSON (nothing is ever unpickled)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hftl.quiet import quiet_transformers
from hftl.runtime.randomness import random_states

START = "start.safetensors"


@dataclass(frozen=True)
class Progress:
    """The next step to take: all before it is done. A finished epoch is (phase, epoch + 1, 0)."""

    phase: int
    epoch: int
    step: int


def save_weights(path: Path, model: nn.Module, frozen: Collection[str] = ()) -> None:
    """The parameters and buffers of the model, less those that are ``frozen``, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    save_file(_moving(model, frozen), draft)
    draft.replace(path)


def load_weights(path: Path, model: nn.Module) -> None:
    """Put saved weights into the model, bit for bit; tied tensors follow the one that was saved, others stay."""
    model.load_state_dict(load_file(path), strict=False)


def save_pretrained(folder: Path, model: Any, processor: Any) -> None:
    """Write model and processor as an ordinary Hugging Face folder, whole or not at all."""
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    with quiet_transformers():
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
    let_others_read(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def let_others_read(folder: Path) -> None:
    """Give the files the permissions of any new file: safetensors writes for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)


def save(
    folder: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    frozen: Collection[str],
) -> None:
    """Replace the checkpoint in ``folder`` by where the run stands now.

    It holds ``start.safetensors``, all weights as the phase began with them (written then, and linked to afterwards);
    ``model.safetensors``, those that are not ``frozen`` as they are now; ``optimizer.safetensors`` (``<parameter>/
    <exp_avg …>``); ``random.safetensors`` and ``state.json`` (progress, states of the random generators, and ``state``:
    the trainer's own plain data).
    """
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if (progress.epoch, progress.step) == (0, 0):
        save_file(_moving(model, ()), draft / START)
    else:
        _link(folder / START, draft / START)
    save_file(_moving(model, frozen), draft / "model.safetensors")
    save_file(_optimizer_tensors(optimizer), draft / "optimizer.safetensors")
    randoms = random_states()
    generators = {"torch": randoms.pop("torch")}
    generators |= {f"cuda{index}": states for index, states in enumerate(randoms.pop("cuda"))}
    save_file(generators, draft / "random.safetensors")
    plain = {"progress": asdict(progress), "random": randoms, **state}
    (draft / "state.json").write_text(json.dumps(plain), encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # not every file system can
        shutil.copyfile(old, new)


def _moving(model: nn.Module, frozen: Collection[str]) -> dict[str, torch.Tensor]:
    return _untied({name: tensor for name, tensor in model.state_dict().items() if name not in frozen})


def _untied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors, one name for each memory: safetensors keeps no tensor twice."""
    seen: set[tuple[int, torch.Size]] = set()
    kept = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() == 0 or place not in seen:
            kept[name] = tensor.detach().contiguous()
            seen.add(place)
    return kept


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by the names of parameters, which outlast their order."""
    state = optimizer.state
    return {
        f"{name}/{key}": torch.as_tensor(value).contiguous()
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in state.get(parameter, {}).items()
    }
