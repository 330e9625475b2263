"""What a phase stores: where its trained part begins, which rows, under which names."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hftl.data.batches import Batch, Examples
from hftl.errors import NotStoredError, one_line
from hftl.features import store
from hftl.features.replay import FEATURES, Cut, Replay, capture, find_cut, modes_kept
from hftl.prepare import Prepared
from hftl.runtime import Runtime

VERSIONS = ("hftl", "torch", "transformers")
"""Packages that compute the features. Those that read the data count in the digest of the rows."""


@dataclass(frozen=True)
class Wanted:
    """A store that a phase trains or is evaluated on."""

    split: str
    view: int
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
        try:
            return missing, store.room_for(self.folder, size, self.most, keep) if missing else []
        except OSError as error:
            raise NotStoredError(f"{self.folder}: {error.strerror or error}") from None


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
    cut, problem = None, ""
    try:
        cut = exact_cut(ready, model, runtime.device)
    except NotStoredError as error:
        problem = str(error)
    if problem := next((said for said in runtime.gather(problem) if said), ""):
        raise NotStoredError(problem)
    assert cut is not None
    views = range(ready.views(number))
    rows = [("train", view, ready.train_rows(number, view)) for view in views]
    # The test split is scored once, on the best of all phases: seldom on this one if others follow.
    last = number == len(ready.recipe.phases) - 1
    others = ["validation", *(["test"] if last and "test" in ready.splits.named() else [])]
    rows += [(split, 0, ready.examples(split)) for split in others]
    made_of = _made_of(cut, model, frozen, ready, runtime)
    wanted = [
        Wanted(split, view, examples, {**made_of, "rows": examples.digest}, _bytes(cut, examples))
        for split, view, examples in rows
    ]
    recipe = ready.recipe
    folder = Path(recipe.store.dir).expanduser() if recipe.store.dir else store.default_folder()
    return Plan(cut, folder, wanted, int(recipe.store.max_gb * 1e9))


def exact_cut(ready: Prepared, model: Any, device: torch.device) -> Cut:
    """Where the trained part of the model begins, seen to give the same there from stored activations.

    Compared on a real batch: outputs in eval mode, outputs in train mode under one seed, and every gradient, a missing
    one included: what looks at weights between the frozen layers gives the right values and no gradient.

    Raises:
        NotStoredError: it does not.
    """
    examples = ready.examples("train")
    order = np.arange(len(examples)) if examples.lengths is None else np.argsort(examples.lengths, kind="stable")
    some = order[np.linspace(0, len(order) - 1, 4).round().astype(int)].tolist()
    one, other, whole = (
        examples.__getitems__(rows).to(device) for rows in ([some[0], some[0]], [*some[:2], some[3]], some)
    )
    problem = NotStoredError("none")
    for sighted in (False, True):
        try:
            cut = find_cut(model, [one.inputs, other.inputs], sighted)
            _compare(ready, model, cut, whole)
        except NotStoredError as error:
            problem = error
        else:
            return cut
    raise problem


def _compare(ready: Prepared, model: Any, cut: Cut, batch: Batch) -> None:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with modes_kept(model):
        inputs = {FEATURES: capture(model, cut, batch.inputs), **(batch.inputs if cut.sighted else {})}
    replay = Replay(model, cut)

    def seen(function: Any, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        with modes_kept(model), torch.no_grad():
            model.eval()
            found: dict[str, torch.Tensor | None] = {
                f"eval {name}": value for name, value in ready.recipe.task.reduce(function(**given)).items()
            }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            outputs = function(**given)
        found |= {f"train {name}": value.detach() for name, value in ready.recipe.task.reduce(outputs).items()}
        loss = ready.loss(outputs, batch).sum()
        gradients = torch.autograd.grad(loss, [*trained.values()], allow_unused=True)
        return {**found, **dict(zip(trained, gradients, strict=True))}

    try:
        replayed = seen(replay, inputs)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise NotStoredError(f"without its frozen layers the model fails ({one_line(error, 100)})") from None
    for name, expected in seen(model, batch.inputs).items():
        if not _same(expected, replayed[name]):
            raise NotStoredError(f"behind its frozen layers the model needs more than what goes into {cut.module}")


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Equal: to the last bit on a CPU; a GPU adds gradients up in any order."""
    if one is None or other is None:
        return one is other
    if one.device.type == "cpu":
        return torch.equal(one, other)
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=1e-3, atol=1e-5))


def _made_of(cut: Cut, model: Any, frozen: Mapping[str, bytes], ready: Prepared, runtime: Runtime) -> dict[str, Any]:
    """All that determines the features of a row, but for the row."""
    weights = hashlib.sha256(b"".join(name.encode() + b"\0" + frozen[name] for name in sorted(frozen)))
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    config |= {"attention": model.config._attn_implementation, "dtype": str(model.config.dtype)}
    plain = json.dumps(config, sort_keys=True, default=str)
    return {
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": hashlib.sha256(plain.encode()).hexdigest(),
        "weights": weights.hexdigest(),
        "cut": [cut.module, cut.ragged, cut.dtype, *cut.shape],
        "batch": ready.recipe.eval_batch_size,
        "precision": runtime.precision,
        "device": runtime.device.type,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def _bytes(cut: Cut, examples: Examples) -> int:
    """Of a store of these rows: of its features, which are nearly all of it."""
    if cut.ragged and examples.lengths is None:
        raise NotStoredError("how long the rows are is not known")
    entries = int(examples.lengths.sum()) if cut.ragged and examples.lengths is not None else len(examples)
    return entries * store.Column(cut.dtype, cut.shape).size
