"""What a phase stores: where its trained part begins, which rows, under which names."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hftl.data.batches import Examples
from hftl.errors import NotStoredError
from hftl.features import store
from hftl.features.exact import exact_cut
from hftl.features.makers import maker_of
from hftl.features.replay import MASK, Cut
from hftl.model.heads import DROPOUT_SETTINGS
from hftl.prepare import Prepared
from hftl.runtime.runtime import Runtime

VERSIONS = ("hftl", "timm", "torch", "transformers")
"""Packages that compute the features. Those that read the data count in the digest of the rows."""


@dataclass(frozen=True)
class Wanted:
    """A store that a phase trains or is evaluated on."""

    split: str
    view: int | None
    """Which of the random views; None: the plain one."""
    examples: Examples
    made_of: dict[str, Any]
    bytes: int

    @property
    def key(self) -> str:
        """Its name in the folder of stores."""
        return store.key_of(self.made_of)


@dataclass(frozen=True)
class Plan:
    """What is to be stored for a phase, and where."""

    cut: Cut
    folder: Path
    wanted: list[Wanted]
    most: int
    """Bytes that the folder may hold."""

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(each.bytes for each in self.wanted)

    def rows(self, split: str) -> int:
        """How many rows of the split are wanted; each view counts."""
        return sum(len(each.examples) for each in self.wanted if each.split == split)

    def missing(self) -> tuple[list[int], list[store.Found]]:
        """The places in ``wanted`` of the stores that are not there, and those that make room for them if removed.

        Raises:
            NotStoredError: there is no room for them.
        """
        missing = [index for index, wanted in enumerate(self.wanted) if store.find(self.folder, wanted.key) is None]
        size, keep = sum(self.wanted[index].bytes for index in missing), {wanted.key for wanted in self.wanted}
        with store.written(self.folder):
            return missing, store.room_for(self.folder, size, self.most, keep) if missing else []


def plan_of(ready: Prepared, number: int, model: Any, frozen: Mapping[str, bytes], runtime: Runtime) -> Plan:
    """Which stores phase ``number`` needs, found where the trained part of ``model`` begins.

    Args:
        ready: the run.
        number: of the phase, which is open.
        model: prepared for evaluation.
        frozen: digests of all that the phase does not train.
        runtime: that of the model.

    Raises:
        NotStoredError: the trained part cannot be run on stored activations, or not exactly.
    """
    # The test split is scored once, on the best of all phases: seldom on this one if others follow.
    last = number == len(ready.recipe.phases) - 1
    others = ["validation", *(["test"] if last and "test" in ready.splits.named() else [])]
    cut, problem = None, ""
    try:
        cut = exact_cut(ready, model, ["train", *others], runtime.device)
    except NotStoredError as error:
        problem = str(error)
    if problem := next((said for said in runtime.gather(problem) if said), ""):
        raise NotStoredError(problem)
    assert cut is not None
    views = ready.views(number)
    # The second pass trains on the rows of two splits, each of which has a store, unless views of them are wanted.
    plain = ready.first or ready
    rows: list[tuple[str, int | None, Examples]] = [
        ("train", view, ready.train_rows(number, view)) if views > 1 else ("train", None, plain.examples("train"))
        for view in range(views)
    ]
    rows += [(split, None, ready.examples(split)) for split in others]
    made_of = _made_of(cut, model, frozen, ready, runtime)
    wanted = [
        Wanted(
            split,
            view,
            examples,
            {**made_of, **_of_rows(examples)},
            _bytes(cut, examples),
        )
        for split, view, examples in rows
    ]
    recipe = ready.recipe
    folder = Path(recipe.store.dir).expanduser() if recipe.store.dir else store.default_folder()
    return Plan(cut, folder, wanted, int(recipe.store.max_gb * 1e9))


def _made_of(cut: Cut, model: Any, frozen: Mapping[str, bytes], ready: Prepared, runtime: Runtime) -> dict[str, Any]:
    """All that determines the features of a row, but for the row."""
    weights = hashlib.sha256(b"".join(name.encode() + b"\0" + frozen[name] for name in sorted(frozen)))
    # Features are computed in eval mode, where no dropout counts.
    other = {"_name_or_path", *DROPOUT_SETTINGS}
    config = {name: value for name, value in model.config.to_dict().items() if name not in other}
    config |= {"attention": model.config._attn_implementation, "dtype": str(model.config.dtype)}
    plain = json.dumps(config, sort_keys=True, default=str)
    return {
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": hashlib.sha256(plain.encode()).hexdigest(),
        "weights": weights.hexdigest(),
        "cut": [cut.module, cut.ragged, cut.dtype, *cut.shape],
        "batch": ready.recipe.eval_batch_size,
        "precision": [runtime.precision, torch.get_float32_matmul_precision()],
        "device": _device(runtime.device),
        "versions": {name: _version(name) for name in VERSIONS},
    }


def _of_rows(examples: Examples) -> dict[str, Any]:
    """What the rows hold, and who makes them of it."""
    return {"rows": examples.digest, "maker": maker_of(examples)}


def _device(device: torch.device) -> list[Any]:
    """What decides how sums are rounded: the kind of device, and how it may take short cuts."""
    if device.type != "cuda":
        return [device.type, torch.backends.cpu.get_cpu_capability()]
    backends = torch.backends
    short_cuts = (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.deterministic)
    return [device.type, torch.cuda.get_device_name(device), *short_cuts]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _bytes(cut: Cut, examples: Examples) -> int:
    """Of a store of these rows: of its features, which are nearly all of it."""
    entries = len(examples)
    if cut.ragged and examples.lengths is not None:
        entries = int(examples.lengths.sum())
    elif cut.ragged:  # all are of one length, such as windows of recordings, and padding makes of them less at most
        entries *= examples.__getitems__([0]).inputs[MASK].shape[1]
    return entries * store.Column(cut.dtype, cut.shape).size
