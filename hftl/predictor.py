"""A trained run applied to inputs: evaluation and prediction, in training and after it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import concatenate_datasets

from hftl import tasks
from hftl.data.ahead import ahead
from hftl.data.batches import Batch, Examples, Outputs, evaluation_order, load
from hftl.data.splits import BadRow
from hftl.detections import Heard
from hftl.errors import HftlError
from hftl.model import heads
from hftl.recipe.recipe import Recipe, read_yaml
from hftl.records import EvaluationProgress
from hftl.run_folder import RunFolder
from hftl.runtime.runtime import Runtime
from hftl.tasks.base import DetectionTask

SEEN = (
    "the model was trained once more on all rows, those of validation included: its scores on them say little of "
    "others; metrics.json has those of the model before that"
)


def outputs_of(
    model: Any, examples: Examples, recipe: Recipe[Any], runtime: Runtime, split: str
) -> Generator[EvaluationProgress, None, Outputs]:
    """Run every example through the model once, in eval mode and without gradient, each process its share.

    Yields how far it is; returns what the task keeps of the outputs, in the order of the examples, on every process.
    The batches are those of a single process: the outputs do not depend on how many there are.
    """
    model.eval()
    batches = evaluation_order(len(examples), examples.lengths, recipe.eval_batch_size)
    shares = [batches[rank :: runtime.world_size] for rank in range(runtime.world_size)]
    kept: dict[str, list[npt.NDArray[Any]]] = {}
    done = 0
    for batch in load(examples, shares[runtime.rank], runtime.workers(recipe.workers)):
        for name, array in _kept(model, batch, recipe.task, runtime).items():
            kept.setdefault(name, []).append(array)
        done += len(batch)
        yield EvaluationProgress(split, min(done * runtime.world_size, len(examples)), len(examples))
    gathered = runtime.gather({name: np.concatenate(arrays) for name, arrays in kept.items()})
    back = np.argsort(np.concatenate([batch for share in shares for batch in share]))
    return {name: np.concatenate([part[name] for part in gathered if part])[back] for name in gathered[0]}


def _kept(model: Any, batch: Batch, task: Any, runtime: Runtime) -> dict[str, npt.NDArray[Any]]:
    """What the task keeps of the model's outputs for a batch."""
    # Not inference_mode: BEiT keeps tensors from one forward pass to the next.
    with torch.no_grad():
        batch = batch.to(runtime.device)
        return {name: kept.cpu().numpy() for name, kept in task.reduce(model(**batch.inputs), batch).items()}


class Predictor:
    """A run folder's model and everything needed to apply it as it was trained.

    >>> predictor = Predictor("runs/pets")
    >>> predictor(["photo.jpg"])[0]["label"]
    >>> predictor.evaluate("test")

    Raises:
        HftlError: no such run, or one that has not ended.
    """

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run).expanduser()
        folder = RunFolder(self.folder)
        if not folder.recipe.is_file():
            raise HftlError(f"{run}: no run lies there (it has no recipe.yaml); name a folder that hftl fit wrote")
        if folder.result is None:
            raise HftlError(f"{run}: the run has not ended: there is no model/ in it yet")
        recipe = read_yaml(folder.recipe, tasks.find)
        task, source, trust = recipe.task, str(folder.result), recipe.trust_remote_code
        self.recipe = dataclasses.replace(recipe, model=source, keep_head=True, task=task.applied())
        there = recipe.precision != "fp16" or torch.cuda.is_available()
        self._runtime = Runtime(recipe.precision if there else "auto")
        task.know_models()
        self.processor = task.load_processor(source, trust)
        self.labels: tuple[str, ...] = heads.own_labels(task.auto_class, source, {}, trust)
        """The names of the classes, by id."""
        self.model = self._runtime.prepare_evaluation(
            task.load_model(source, self.labels, self.processor, True, 0.0, trust).model
        )
        self._settings: dict[str, Any] = self.model.config.to_dict()
        self.bad_rows: list[BadRow] = []
        """What the last call could not read, and why."""
        self.notes: tuple[str, ...] = ()
        """What was decided while the last evaluation read its data."""

    def __call__(self, inputs: Any = (), **fields: Any) -> list[dict[str, Any]]:
        """The answer for each input: a file, folder or object, or a list of them.

        Each has ``name`` and what the task answers: ``label``, ``score`` (its probability), ``scores`` of all labels.
        ``fields`` are a single input that has several parts, such as ``question`` and ``context``.

        Raises:
            HftlError: nothing among the inputs can be read. Single bad ones are left out and listed in ``bad_rows``.
        """
        task = self.recipe.task
        if strange := [name for name in fields if name not in task.fields]:
            there = ", ".join(task.fields) or "a list of inputs, without names"
            raise HftlError(f"{strange[0]}: the inputs of {task.name} have no such part; give {there}")
        many = _many(inputs)
        many += [fields] if fields else []
        dataset, self.bad_rows = task.read_inputs(many, self.processor)
        names = dataset["name"]
        outputs = drain(self._outputs(dataset.remove_columns("name"), "inputs"))
        answers = task.answers(outputs, dataset, self.labels, self._settings)
        return [{"name": name, **answer} for name, answer in zip(names, answers, strict=True)]

    def long_inputs(self, inputs: Any) -> list[tuple[str, Any]]:
        """The names of what ``detect`` hears, and how each can be read. A file that is named twice is there once.

        Args:
            inputs: files, folders, objects: one, or a list of them.

        Raises:
            HftlError: as ``detect``.
        """
        task = self.recipe.task
        if not isinstance(task, DetectionTask):
            raise HftlError(f"{self.folder}: a run of {task.name} detects nothing in long inputs; use hftl predict")
        many = _many(inputs)
        found: dict[Any, tuple[str, Any]] = {}
        for name, value in task.long_inputs(many):
            found.setdefault(os.path.realpath(value) if isinstance(value, str) else len(found), (name, value))
        if not found:
            raise HftlError(
                f"{', '.join(map(str, many))}: nothing to detect anything in; name files, or folders of them"
            )
        return [*found.values()]

    def detect(
        self,
        inputs: Any,
        overlap: float | None = None,
        threshold: float | None = None,
        shifted: bool = True,
        columns: tuple[int, int] | None = None,
        reader: Callable[[EvaluationProgress], None] | None = None,
    ) -> Iterator[Heard]:
        """What is in which part of long inputs (files, folders, objects), one after the other.

        Each is read once, from beginning to end, ``eval_batch_size`` windows at a time: however long it lasts, no more
        of it is in memory. What cannot be read is left out, from there on or as a whole, and listed in ``bad_rows``.
        Windows in which all samples are equal have no label.

        Args:
            inputs: one, or a list of them.
            overlap: part of a window that the next one has as well; None, as the run says.
            threshold: probability that a label must have to be the answer. Unset, 0.5 for the most probable label, and
                where there may be any number of labels the thresholds that the run tuned.
            shifted: whether the last window ends with its input; if not, it keeps its place in the grid.
            columns: for a picture: how many columns make a row, and the most rows.
            reader: who is told how far it is.

        Raises:
            HftlError: the run's task has no such thing, or there is no input.
        """
        found, task = self.long_inputs(inputs), self.recipe.task
        if self._runtime.world_size > 1:
            raise HftlError("detect: it runs in one process; start it without a launcher")
        if threshold is not None and not 0 <= threshold <= 1:
            raise HftlError(f"threshold: {threshold} is out of range; a probability is between 0 and 1")
        if overlap is not None:
            task = dataclasses.replace(task, overlap=overlap)
        self.bad_rows = []
        return self._detecting(task, found, threshold, shifted, columns, reader or (lambda _: None))

    def _detecting(
        self,
        task: Any,
        found: list[tuple[str, Any]],
        threshold: float | None,
        shifted: bool,
        columns: tuple[int, int] | None,
        reader: Callable[[EvaluationProgress], None],
    ) -> Iterator[Heard]:
        self.model.eval()
        for number, (name, value) in enumerate(found):
            stream, kept, done = None, [np.empty((0, len(self.labels)))], 0
            try:
                stream = task.window_stream(value, self.processor, shifted, columns)
                for batch in ahead(stream.batches(self.recipe.eval_batch_size)):
                    outputs = _kept(self.model, batch, task, self._runtime)
                    kept.append(task.probabilities(outputs, self._settings))
                    done += len(batch)
                    reader(EvaluationProgress(Path(name).name, done, len(stream.starts)))
            except HftlError as error:
                reason = str(error).removeprefix(f"{name}: ")
                self.bad_rows.append(BadRow("inputs", number, name, reason))
            if stream is None or not done:
                continue
            probabilities = np.concatenate(kept)
            given = task.predicted(probabilities, self._settings, threshold)
            given[np.asarray(stream.silent[:done])] = False  # whatever the model says, which has never heard silence
            yield Heard(
                name,
                stream.seconds if done == len(stream.starts) else float(stream.starts[done - 1]) + stream.window,
                stream.window,
                self.labels,
                stream.starts[:done],
                probabilities,
                given,
                stream.overview,
            )

    def evaluate(self, split: str | None = None, data: Any = None) -> dict[str, float]:
        """The scores on a split of the run's own data, or of other ``data`` with the same labels.

        Without ``split``: on validation, or on all rows of ``data``. ``notes`` says so where the model was trained on
        the rows of validation too, as it is where these were cut from train.

        Raises:
            HftlError: the data were handed in as objects and are not given again, or have no such split.
        """
        scores: dict[str, float] = drain(self.evaluating(split, data))
        return scores

    def evaluating(self, split: str | None, data: Any = None) -> Generator[EvaluationProgress, None, dict[str, float]]:
        """``evaluate``, telling how far it is."""
        task, recipe = self.recipe.task, self.recipe
        if data is None and isinstance(task.data, str) and task.data.startswith("<"):
            raise HftlError(f"{self.folder}: its data were handed in as objects {task.data}; give them again (data=…)")
        everything = split is None and data is not None
        if data is not None:
            task = task.on(data)
        if everything:
            task = dataclasses.replace(task, max_rows=None)
        splits = self._runtime.once(
            lambda: task.load_data(recipe.seed, recipe.model, True, recipe.trust_remote_code, cut=not everything),
            per_machine=True,
        )
        self.notes, self.bad_rows = splits.notes, list(splits.bad_rows)
        if recipe.refit and data is None and split in (None, "validation"):
            self.notes += (SEEN,)
        rows = concatenate_datasets([*splits.named().values()]) if everything else splits.of(split or "validation")
        outputs = yield from self._outputs(rows, split or "all rows")
        scores: dict[str, float] = task.score(outputs, rows, self._settings)
        return scores

    def _outputs(self, dataset: Any, split: str) -> Generator[EvaluationProgress, None, Outputs]:
        examples = self.recipe.task.examples(dataset, self.processor, augment=False)
        return outputs_of(self.model, examples, self.recipe, self._runtime, split)


def _many(inputs: Any) -> list[Any]:
    """Of one input, or a list of them, the list; text and encoded bytes are one."""
    return [*inputs] if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes) else [inputs]


def drain(
    progress: Generator[EvaluationProgress, None, Any], reader: Callable[[EvaluationProgress], None] | None = None
) -> Any:
    """What the generator returns; its progress goes to ``reader``."""
    while True:
        try:
            told = next(progress)
        except StopIteration as done:
            return done.value
        if reader is not None:
            reader(told)
