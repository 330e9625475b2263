"""What a phase computes with: the model and its rows, or the trained part alone and stored features."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftl.data.batches import Examples, load
from hftl.errors import NotStoredError
from hftl.features import store
from hftl.features.examples import StoredExamples, arrays_of, filling_order
from hftl.features.plan import Plan, Wanted, plan_of
from hftl.features.replay import Replay, capture
from hftl.model.layers import frozen_digests
from hftl.prepare import Prepared
from hftl.recipe.recipe import task_name
from hftl.records import FeaturesPlanned, FeaturesProgress, FeaturesReady, Noted, Record
from hftl.runtime.runtime import Runtime

NOT_STORED = "features are not stored: {}; frozen layers are computed again in every epoch"


@dataclass(frozen=True)
class Source:
    """A model, and the rows that it takes."""

    model: Any
    examples: Callable[[str], Examples]
    """Of a split, as evaluated."""
    train: Callable[[int], Examples]
    """Of an epoch, as trained on."""
    stored: bool = False
    """Whether these are stored features, and the model the part of it that trains."""


def open_source(
    ready: Prepared, number: int, model: Any, frozen: Mapping[str, bytes], runtime: Runtime
) -> Generator[Record, None, Source]:
    """What phase ``number`` computes with: stored features where its blocks are frozen, filled now if need be.

    Call it when the phase is open: its parameters and modes are set, and ``frozen`` are the digests of all else. Where
    features cannot be stored, or not exactly, it says so in a record and falls back to the model itself.
    """
    plain = Source(model, ready.examples, lambda epoch: ready.train_rows(number, epoch))
    if not ready.recipe.phases[number].head_only or not ready.recipe.store.use:
        return plain
    begun = time.monotonic()
    model = runtime.prepare_evaluation(model)
    try:
        plan = plan_of(ready, number, model, frozen, runtime)
        missing, removed = runtime.once(lambda: _make_room(plan))
        for index in missing:
            yield from _fill(plan.wanted[index], plan, model, ready, runtime)
        found = _opened(plan, runtime)
    except NotStoredError as why:
        yield Noted(number, NOT_STORED.format(why))
        return plain
    finally:
        runtime.unwrap(model)
    yield FeaturesReady(
        phase=number,
        cut=plan.cut.module,
        rows={split: plan.rows(split) for split in _splits(plan.wanted)},
        computed=_splits([plan.wanted[index] for index in missing]),
        bytes=plan.bytes,
        views=ready.views(number) if ready.examples("train", augment=True).random else 0,
        folder=str(plan.folder),
        removed=removed,
        seconds=time.monotonic() - begun,
    )
    batch, views = ready.recipe.eval_batch_size, ready.views(number)
    filled = {(w.split, w.view): (w.examples, store) for w, store in zip(plan.wanted, found, strict=True)}
    rows = {name: StoredExamples(pair[0], plan.cut, [pair], batch) for name, pair in filled.items()}
    if ready.first and views == 1:
        both = [filled["train", None], filled["validation", None]]
        rows["train", None] = StoredExamples(ready.examples("train"), plan.cut, both, batch)
    return Source(
        Replay(model, plan.cut),
        lambda split: rows[split, None],
        lambda epoch: rows["train", epoch % views if views > 1 else None],
        stored=True,
    )


def foresee(ready: Prepared, number: int, model: Any, runtime: Runtime) -> Iterator[Record]:
    """What phase ``number``, which is open, would store; nothing is written."""
    recipe = ready.recipe
    if not recipe.phases[number].head_only or not recipe.store.use:
        return
    model = runtime.prepare_evaluation(model)
    try:
        plan = plan_of(ready, number, model, frozen_digests(model), runtime)
        missing, removed = plan.missing()
    except NotStoredError as why:
        yield Noted(number, NOT_STORED.format(why))
        return
    finally:
        runtime.unwrap(model)
    rows = {split: plan.rows(split) for split in _splits(plan.wanted)}
    # Behind a phase that moves blocks, the weights will be others than these.
    known = all(earlier.head_only for earlier in recipe.phases[:number])
    there = _splits([w for index, w in enumerate(plan.wanted) if index not in missing]) if known else []
    yield FeaturesPlanned(number, rows, there, plan.bytes, str(plan.folder), [found.path.name for found in removed])


def _make_room(plan: Plan) -> tuple[list[int], list[str]]:
    """The places in ``plan.wanted`` that have to be filled, and the names of what was removed for them."""
    missing, removed = plan.missing()
    with store.written(plan.folder):
        for found in removed:
            store.remove(found)
    return missing, [found.path.name for found in removed]


def _fill(
    wanted: Wanted, plan: Plan, model: Any, ready: Prepared, runtime: Runtime
) -> Generator[FeaturesProgress, None, None]:
    """Compute a store, each process its share; it gets its name when all of it is on disk.

    Raises:
        NotStoredError: it cannot be written; nothing of it is left then.
    """
    draft = runtime.once(lambda: _draft(plan.folder, wanted.key))
    recipe, problem = ready.recipe, ""
    batches = filling_order(wanted.examples, recipe.eval_batch_size, runtime.world_size)[runtime.rank]
    shard = store.Shard(draft, runtime.rank)
    try:
        with shard:
            done = 0
            for batch in load(wanted.examples, batches, runtime.workers(recipe.workers)):
                on_device = batch.to(runtime.device)
                features = capture(model, plan.cut, on_device.inputs)
                try:
                    with store.written(plan.folder):
                        shard.append(arrays_of(plan.cut, features, on_device))
                except NotStoredError as error:
                    problem = str(error)
                    break
                done += len(batch)
                yield FeaturesProgress(
                    wanted.split, min(done * runtime.world_size, len(wanted.examples)), len(wanted.examples)
                )
        told = runtime.gather((problem, shard.columns, shard.entries))
        if problem := next((said for said, *_ in told if said), ""):
            raise NotStoredError(problem)
        runtime.once(lambda: _finish(draft, _declaration(wanted, plan, ready, told)))
    finally:
        if runtime.first:
            shutil.rmtree(draft, ignore_errors=True)


def _draft(folder: Path, key: str) -> Path:
    with store.written(folder):
        return store.start_draft(folder, key)


def _finish(draft: Path, declaration: store.Declaration) -> None:
    with store.written(draft.parent):
        store.finish(draft, declaration)


def _declaration(
    wanted: Wanted, plan: Plan, ready: Prepared, told: Sequence[tuple[str, dict[str, store.Column], dict[str, int]]]
) -> store.Declaration:
    columns = next(columns for _, columns, _ in told if columns)
    shards = [entries or dict.fromkeys(columns, 0) for _, _, entries in told]
    recipe = ready.recipe
    about = {
        "model": recipe.model,
        "task": task_name(recipe.task),
        "data": str(recipe.task.data) if isinstance(recipe.task.data, str) else "objects",
        "split": wanted.split,
        "view": wanted.view,
        "rows": len(wanted.examples),
        "of": f"what goes into {plan.cut.module}",
    }
    return store.Declaration(columns, shards, wanted.made_of, about)


def _opened(plan: Plan, runtime: Runtime) -> list[store.Found]:
    """The stores of the plan, all complete, on every process."""
    found = [store.find(plan.folder, wanted.key) for wanted in plan.wanted]
    there = [each for each in found if each is not None]
    if not all(runtime.gather(len(there) == len(plan.wanted))):
        raise NotStoredError(f"not all processes see {plan.folder}; name a folder that they share with --store.dir")
    for each in there:
        store.mark_used(each)
    return there


def _splits(wanted: Sequence[Wanted]) -> list[str]:
    return list(dict.fromkeys(each.split for each in wanted))
