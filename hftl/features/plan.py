"""What a phase stores: where its trained part begins, which rows, under which names."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hftl.data.batches import Batch, Examples
from hftl.errors import NotStoredError, one_line
from hftl.features import store
from hftl.features.examples import arrays_of, restored
from hftl.features.replay import FEATURES, MASK, Cut, Replay, capture, draws_before, find_cut, modes_kept
from hftl.heads import DROPOUT_SETTINGS
from hftl.prepare import Prepared
from hftl.runtime import Runtime

VERSIONS = ("hftl", "timm", "torch", "transformers")
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
    views = range(ready.views(number))
    rows = [("train", view, ready.train_rows(number, view)) for view in views]
    rows += [(split, 0, ready.examples(split)) for split in others]
    made_of = _made_of(cut, model, frozen, ready, runtime)
    wanted = [
        Wanted(split, view, examples, {**made_of, "rows": examples.digest}, _bytes(cut, examples))
        for split, view, examples in rows
    ]
    recipe = ready.recipe
    folder = Path(recipe.store.dir).expanduser() if recipe.store.dir else store.default_folder()
    return Plan(cut, folder, wanted, int(recipe.store.max_gb * 1e9))


def exact_cut(ready: Prepared, model: Any, splits: Sequence[str], device: torch.device) -> Cut:
    """Where the trained part of the model begins, seen to give the same there from stored activations.

    Compared on real batches: outputs in eval mode, outputs in train mode under one seed, and every gradient, a missing
    one included: what looks at weights between the frozen layers gives the right values and no gradient. On each split,
    for one may have what another has not: rows that differ in length, say.

    Raises:
        NotStoredError: it does not.
    """
    each = [ready.examples(split) for split in splits]
    # Where all rows have one shape, those to train on show what there is to be seen.
    some = [(examples, _spread(examples)) for examples in each if examples is each[0] or examples.lengths is not None]
    shortest, low = min(some, key=lambda pair: _length(pair[0], pair[1][0]))
    longest, high = max(some, key=lambda pair: _length(pair[0], pair[1][-1]))
    one = shortest.__getitems__([low[0], low[0]]).to(device)
    other = longest.__getitems__([*high[:2], high[-1]]).to(device)
    batches = [examples.__getitems__(rows).to(device) for examples, rows in some]
    problem = NotStoredError("none")
    for sighted in (False, True):
        try:
            cut = find_cut(model, [one.inputs, other.inputs], sighted)
            for batch in batches:
                _compare(ready, model, cut, batch)
        except NotStoredError as error:
            problem = error
        else:
            return cut
    raise problem


def _spread(examples: Examples) -> list[int]:
    """Four rows, from the shortest to the longest."""
    order = np.arange(len(examples)) if examples.lengths is None else np.argsort(examples.lengths, kind="stable")
    found: list[int] = order[np.linspace(0, len(order) - 1, 4).round().astype(int)].tolist()
    return found


def _length(examples: Examples, row: int) -> int:
    return 0 if examples.lengths is None else int(examples.lengths[row])


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
                f"eval {name}": value for name, value in ready.recipe.task.reduce(function(**given)).items()
            }
        with _buffers_kept(model), torch.random.fork_rng():
            torch.manual_seed(0)
            outputs = function(**given)
            loss = ready.loss(outputs, batch).sum()
            gradients = torch.autograd.grad(loss, [*trained.values()], allow_unused=True)
        found |= {f"train {name}": value.detach() for name, value in ready.recipe.task.reduce(outputs).items()}
        return {**found, **dict(zip(trained, gradients, strict=True))}

    try:
        replayed = seen(Replay(model, cut), {FEATURES: features, **(batch.inputs if cut.sighted else {})})
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
        "device": runtime.device.type,
        "versions": {name: _version(name) for name in VERSIONS},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _bytes(cut: Cut, examples: Examples) -> int:
    """Of a store of these rows: of its features, which are nearly all of it."""
    if cut.ragged and examples.lengths is None:
        raise NotStoredError("how long the rows are is not known")
    entries = int(examples.lengths.sum()) if cut.ragged and examples.lengths is not None else len(examples)
    return entries * store.Column(cut.dtype, cut.shape).size
