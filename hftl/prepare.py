"""From a recipe to all that training needs: data checked, model loaded, phases resolved."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import concatenate_datasets

from hftl.data.batches import Examples, Loss
from hftl.data.splits import Splits
from hftl.errors import HftlError, one_line
from hftl.model import adapters
from hftl.model.heads import Loaded, check_backbone
from hftl.model.last_layer import LastLayer, last_layer, scale
from hftl.model.layers import LayerGroups, freeze, start_of
from hftl.recipe import defaults
from hftl.recipe.phase import Phase
from hftl.recipe.recipe import Recipe, task_name
from hftl.records import GroupRow, PhaseStarted, RunStarted
from hftl.runtime.randomness import seed_everything
from hftl.runtime.runtime import Runtime
from hftl.tasks.base import Task


@dataclass(frozen=True)
class Prepared:
    """What a recipe comes to on this machine. ``recipe`` has nothing left open."""

    recipe: Recipe[Any]
    splits: Splits
    loaded: Loaded
    processor: Any
    groups: LayerGroups
    loss: Loss
    chosen: tuple[str, ...] = ()
    """What the recipe had left open, and why it is now as it is; a line each."""
    first: Prepared | None = None
    """In the second pass, which trains on all rows: the first one."""
    _examples: dict[tuple[str, bool], Examples] = field(default_factory=dict, repr=False)
    """Those made so far: to make them may mean to tokenise everything."""

    def examples(self, split: str, augment: bool = False) -> Examples:
        """The rows of a split as batches.

        Raises:
            HftlError: the data have no such split.
        """
        if (split, augment) not in self._examples:
            self._examples[split, augment] = self.recipe.task.examples(self.splits.of(split), self.processor, augment)
        return self._examples[split, augment]

    def on_all_rows(self, phases: Sequence[Phase]) -> Prepared:
        """The second pass: the rows that validated the first are among those to train.

        Args:
            phases: those to run again, for as many epochs as were kept of them; they are counted on. The penalty of a
                solved head stands beside the mean over the rows: the more these are, the smaller it becomes.
        """
        splits, recipe = self.splits, self.recipe
        whole = dataclasses.replace(splits, train=concatenate_datasets([splits.train, splits.validation]))
        part = len(splits.train) / len(whole.train)
        again = [
            phase if phase.penalty is None else dataclasses.replace(phase, penalty=phase.penalty * part)
            for phase in phases
        ]
        extended = dataclasses.replace(recipe, phases=(*recipe.phases, *again))
        loss = recipe.task.objective(whole.train)
        return dataclasses.replace(self, recipe=extended, splits=whole, loss=loss, first=self, _examples={})

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        assert self.recipe.batch_size is not None
        return self.recipe.batch_size

    def train_rows(self, number: int, epoch: int) -> Examples:
        """The training rows as an epoch of phase ``number`` sees them: random views where its phase wants them."""
        if not self.recipe.phases[number].head_only:
            return self.examples("train", augment=True).at((self.recipe.seed, number, epoch))
        views = self.views(number)
        if views == 1:
            return self.examples("train")
        return self.examples("train", augment=True).at((self.recipe.seed, epoch % views))

    def views(self, number: int) -> int:
        """How many views of each training row a head-only phase goes through; 1 is the plain one."""
        there = self.recipe.store.views > 1 and self.examples("train", augment=True).random
        return self.recipe.store.views if there and self.recipe.phases[number].head_only else 1

    @property
    def wants_views(self) -> bool:
        """Whether some phase may see random views of the training rows."""
        return self.recipe.store.views > 1 or not all(phase.head_only for phase in self.recipe.phases)

    def majority(self) -> dict[str, float]:
        """Validation scores of the best answer that ignores the input."""
        splits = (self.first or self).splits
        scores: dict[str, float] = self.recipe.task.majority(splits.train, splits.validation)
        return scores

    def run_started(self, folder: Path, runtime: Runtime) -> RunStarted:
        """What there is to tell before the first phase."""
        examples = {name: self.examples(name) for name in self.splits.named()}
        read = [*examples.items(), *([("train", self.examples("train", augment=True))] if self.wants_views else [])]
        reading = dict.fromkeys(f"{name}: {note}" for name, rows in read for note in rows.notes)
        return RunStarted(
            folder=str(folder),
            task=self.recipe.task.name,
            model=self.recipe.model,
            device=str(runtime.device),
            precision=runtime.precision,
            processes=runtime.world_size,
            batch_size=self.batch_size,
            seed=self.recipe.seed,
            rows={name: len(rows) for name, rows in examples.items()},
            labels=list(self.splits.labels),
            notes=[*self.splits.notes, *reading, *self.loaded.notes, *self._notes(), *runtime.notes()],
            accumulation=self.recipe.accumulation,
            loaded={
                "tensors": self.loaded.tensors,
                "parameters": self.loaded.parameters,
                "new": list(self.loaded.new),
                "dropped": list(self.loaded.dropped),
            },
            majority=self.majority(),
        )

    def _notes(self) -> list[str]:
        """Nobody wants a head above a frozen random neck, such as the pooler of a BERT that only filled in words."""
        random = set(self.groups.parameters["neck"]) & set(self.loaded.new)
        frozen = [str(number) for number, phase in enumerate(self.recipe.phases) if phase.unfreeze == "head"]
        note = f"phase {', '.join(frozen)}: the neck below the head is random and frozen; 'unfreeze: neck' trains it"
        notes = [note] if random and frozen else []
        if self.loaded.converted and any(phase.train == "lora" for phase in self.recipe.phases):
            notes.append("adapters are merged in the end, for the checkpoint is of another kind than the model")
        if self.recipe.store.views > 1 and not self.examples("train", augment=True).random:
            notes.append(f"--store.views {self.recipe.store.views}: these rows have no random views; one is stored")
        if task_name(self.recipe.task).startswith("__main__:"):
            notes.append(
                "task: its class is in the program that runs, so that only this program can load the run again; put it "
                "into a module of its own"
            )
        return [*notes, *self.chosen]

    def open_phase(self, number: int, model: Any) -> tuple[LayerGroups, PhaseStarted]:
        """Have ``model`` train what phase ``number`` declares and nothing else; its groups then, and what that is.

        Adapters are put in (``adapters.merge`` takes them out). A parameter that no gradient reaches stays frozen: what
        requires gradient, what the optimizer has and what moves are the same.
        """
        phase = self.recipe.phases[number]
        seed_everything((self.recipe.seed, number))
        groups = self._unfreeze(phase, model)
        idle = self._freeze_idle(model)
        last = self._head_of(phase, model)
        return groups, PhaseStarted(
            phase=number,
            unfreeze=str(phase.unfreeze),
            epochs=0 if last and last.alone else phase.epochs or 0,
            steps_per_epoch=math.ceil(len(self.examples("train")) / self.batch_size),
            lr=phase.lr or 0.0,
            groups=_group_rows(phase, groups, model),
            train=phase.train,
            idle=idle,
            solver="lbfgs" if last else "steps",
            refit=self.first is not None,
        )

    def _unfreeze(self, phase: Phase, model: Any) -> LayerGroups:
        """Have the model train what the phase declares, adapters put in for it; the groups with these."""
        groups = self.groups
        if phase.train == "lora":
            adapters.inject(model, adapters.targets(model, groups, phase.unfreeze, phase.lora), phase.lora)
            groups = adapters.regroup(model, groups)
        freeze(model, groups, phase.unfreeze, phase.train)
        return groups

    def _freeze_idle(self, model: Any) -> list[str]:
        """Freeze the parameters that no gradient reaches; their names."""
        idle = self._without_gradient(model)
        for name in idle:
            model.get_parameter(name).requires_grad_(False)
        return idle

    def _head_of(self, phase: Phase, model: Any) -> LastLayer | None:
        """The last layer if the phase solves it, else None; it is scaled first, where the phase begins like that."""
        if phase.solver != "lbfgs" and phase.head_scale in (None, 1):
            return None
        last = self.last_layer(model)
        if phase.head_scale not in (None, 1):
            if last is None:
                raise HftlError(f"head_scale: the head of {type(model).__name__} has no linear layer of its logits")
            scale(last.module, phase.head_scale)
        return last if phase.solver == "lbfgs" else None

    def last_layer(self, model: Any) -> LastLayer | None:
        """The linear layer that makes the logits; None where there is no such."""
        device = next(model.parameters()).device
        return last_layer(model, self.examples("train"), self.recipe.task.reduce, device)

    def _without_gradient(self, model: Any) -> list[str]:
        """Names of the trainable parameters that take no part in the loss (DINOv2's mask token, say), by trying."""
        batch = self.examples("train").__getitems__([0]).to(next(model.parameters()).device)
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        loss = self.loss(model.eval()(**batch.inputs), batch).sum()
        gradients = torch.autograd.grad(loss, [*trainable.values()], allow_unused=True)
        return [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]


def _group_rows(phase: Phase, groups: LayerGroups, model: Any) -> list[GroupRow]:
    """What trains of each layer group in the phase, and how fast."""
    own, table = dict(model.named_parameters()), []
    for group, names in groups.parameters.items():
        sizes = [own[name].numel() for name in names]
        trainable = sum(size for size, name in zip(sizes, names, strict=True) if own[name].requires_grad)
        lr = (phase.lr or 0.0) * groups.lr_scale(group, phase.layer_decay) if trainable else None
        table.append(GroupRow(group, sum(sizes), trainable, lr))
    return table


def prepare(recipe: Recipe[Any], runtime: Runtime) -> Prepared:
    """Read and check the data, load the model with its head, partition its layers, resolve the phases.

    Raises:
        HftlError: anything about data, model or phases that a person can mend.
    """
    task = recipe.task
    model = str(Path(recipe.model).expanduser()) if recipe.model.startswith("~") else recipe.model
    recipe = dataclasses.replace(recipe, model=model, keep_head=recipe.keep_head or not recipe.phases)
    processor = task.load_processor(recipe.model, recipe.trust_remote_code)
    # To read the data may mean to decode every image: one process of a machine does it for all.
    splits = runtime.once(
        lambda: task.load_data(recipe.seed, recipe.model, recipe.keep_head, recipe.trust_remote_code), per_machine=True
    )
    task = task.resolved(splits, processor)
    recipe = dataclasses.replace(recipe, task=task)
    seed_everything((recipe.seed,))
    loaded = task.load_model(
        recipe.model, splits.labels, processor, recipe.keep_head, recipe.head_dropout, recipe.trust_remote_code
    )
    groups = LayerGroups.of(loaded.model, recipe.layer_groups)
    check_backbone(loaded, groups, recipe.model)
    neck = set(groups.parameters["neck"])
    start = "neck" if neck & set(loaded.new) else start_of(loaded.model.config.model_type) if neck else "head"
    with runtime.first_on_machine():
        examples = task.examples(splits.train, processor, augment=False)
    _try_out(loaded.model, examples, recipe.model)
    linear = last_layer(loaded.model, examples, task.reduce, torch.device("cpu")) is not None
    recipe, chosen = _decided(recipe, len(examples), start, loaded, linear, splits)
    if (rows := recipe.batch_size or 0) < runtime.world_size:
        raise HftlError(
            f"--batch-size {rows}: the rows of a step over {runtime.world_size} processes have to be at "
            "least one for each"
        )
    phases = recipe.phases
    if loaded.far and any(phase.head_only for phase in phases):
        note = "the model was trained on other data, and frozen it tells little of these: --phases full learns more"
        loaded = dataclasses.replace(loaded, notes=(*loaded.notes, note))
    for phase in phases:  # what a later phase cannot do is better said now than after the first ones
        if phase.train == "lora":
            adapters.targets(loaded.model, groups, phase.unfreeze, phase.lora)
        freeze(loaded.model, groups, phase.unfreeze, phase.train)
    if recipe.gradient_checkpointing:
        _checkpoint_gradients(loaded.model)
    loss = task.objective(splits.train)
    ready = Prepared(recipe, splits, loaded, processor, groups, loss, chosen, _examples={("train", False): examples})
    with runtime.first_on_machine():
        for split in splits.named():
            ready.examples(split)
    if ready.wants_views:  # what is wrong with them is better said now as well
        ready.examples("train", augment=True)
    return ready


def _decided(
    recipe: Recipe[Any], rows: int, start: str, loaded: Loaded, linear: bool, splits: Splits
) -> tuple[Recipe[Any], tuple[str, ...]]:
    """The recipe with nothing left open that depends on the model or on the number of rows, and the reasons."""
    task = recipe.task
    known = defaults.Known(
        rows=rows,
        start=start,
        head_lr=task.head_lr,
        lr=task.lr,
        narrower=_narrower(task, loaded.model.config),
        far=loaded.far,
        faster=loaded.faster,
        linear=linear,
        stored=recipe.store.use,
    )
    batch = recipe.batch_size or defaults.batch_size(rows)
    phases = defaults.resolved(recipe.phases, known, batch)
    reasons = defaults.reasons(recipe.phases, phases, known, batch)
    refit = recipe.refit
    if refit is None:
        wanted = bool(phases) and splits.cut
        refit = wanted and rows <= defaults.MANY_ROWS
        every = len(splits.train) + len(splits.validation)
        if refit:
            reasons += (f"in the end trained once more on all {every:,} rows, validation's among them (--refit False)",)
        elif wanted:
            reasons += (f"not trained once more on all {every:,} rows, for these are many (--refit True)",)
    return dataclasses.replace(recipe, batch_size=batch, phases=phases, refit=refit), reasons


def _narrower(task: Task, config: Any) -> float:
    """How many times narrower the model is than those that the task's learning rate is for; at most 3.

    Source: the best learning rate of Adam is in inverse proportion to the width in Yang et al. 2021, "Tensor Programs
    V"; and 3e-4, 1e-4 and 5e-5 for widths of 256, 768 and 1024 in Clark et al. 2020, "ELECTRA".
    """
    width = getattr(config, "hidden_size", None)
    return min(task.lr_width / width, 3.0) if task.lr_width and width else 1.0


def _checkpoint_gradients(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        raise HftlError(f"--gradient-checkpointing: {type(model).__name__} does not support it; leave it out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the method has a new name, which the oldest versions lack
        # The reentrant way would want inputs that require gradient.
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _try_out(model: Any, examples: Examples, name: str) -> None:
    """Run the longest row through the model: what does not fit is better said before anything is written."""
    row = 0 if examples.lengths is None else int(examples.lengths.argmax())
    batch = examples.__getitems__([row])
    try:
        with torch.no_grad():  # not inference_mode: BEiT keeps tensors for later forward passes
            model.eval()(**batch.inputs)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.inputs.items())
        raise HftlError(
            f"--model {name}: it does not take what its processor makes of the data ({shapes}): {one_line(error)}"
        ) from None
