"""A trained run applied to inputs: evaluation and prediction, in training and after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import concatenate_datasets

from hftl import heads, tasks
from hftl.data.batches import Examples, evaluation_order, load
from hftl.data.splits import BadRow
from hftl.errors import HftlError
from hftl.recipe import Recipe, read_yaml
from hftl.records import EvaluationProgress
from hftl.run_folder import RunFolder
from hftl.runtime import Runtime
from hftl.tasks.base import Outputs


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
        # Not inference_mode: BEiT keeps tensors from one forward pass to the next. Not around the yield: who reads the
        # records is none of its business.
        with torch.no_grad():
            batch = batch.to(runtime.device)
            for name, tensor in recipe.task.reduce(model(**batch.inputs), batch).items():
                kept.setdefault(name, []).append(tensor.cpu().numpy())
        done += len(batch)
        yield EvaluationProgress(split, min(done * runtime.world_size, len(examples)), len(examples))
    gathered = runtime.gather({name: np.concatenate(arrays) for name, arrays in kept.items()})
    back = np.argsort(np.concatenate([batch for share in shares for batch in share]))
    return {name: np.concatenate([part[name] for part in gathered if part])[back] for name in gathered[0]}


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
        many = [*inputs] if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]
        many += [fields] if fields else []
        dataset, self.bad_rows = task.read_inputs(many, self.processor)
        names = dataset["name"]
        outputs = drain(self._outputs(dataset.remove_columns("name"), "inputs"))
        answers = task.answers(outputs, dataset, self.labels, self._settings)
        return [{"name": name, **answer} for name, answer in zip(names, answers, strict=True)]

    def evaluate(self, split: str | None = None, data: Any = None) -> dict[str, float]:
        """The scores on a split of the run's own data, or of other ``data`` with the same labels.

        Without ``split``: on validation, or on all rows of ``data``.

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
        rows = concatenate_datasets([*splits.named().values()]) if everything else splits.of(split or "validation")
        outputs = yield from self._outputs(rows, split or "all rows")
        scores: dict[str, float] = task.score(outputs, rows, self._settings)
        return scores

    def _outputs(self, dataset: Any, split: str) -> Generator[EvaluationProgress, None, Outputs]:
        examples = self.recipe.task.examples(dataset, self.processor, augment=False)
        return outputs_of(self.model, examples, self.recipe, self._runtime, split)


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
