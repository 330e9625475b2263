"""Phases -> epochs -> steps -> evaluation: the one loop of every modality."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import asdict, replace
from typing import Any, Generic, TypeVar

import torch

from hftl import adapters, run_folder
from hftl.checkpoint import Progress, let_others_read, load_weights, save, save_pretrained, save_weights
from hftl.data.batches import epoch_steps
from hftl.data.splits import write_bad_rows
from hftl.errors import HftlError, one_line
from hftl.features.source import Source, open_source
from hftl.layers import digest, fixed_statistics, frozen_digests, running_statistics, set_modes
from hftl.optim import averaged, build_optimizer, set_lr, update_average
from hftl.phase import Phase
from hftl.predictor import drain, outputs_of
from hftl.prepare import prepare
from hftl.quiet import first_process
from hftl.recipe import Recipe, to_yaml
from hftl.records import (
    LOWER_IS_BETTER,
    Evaluated,
    EvaluationProgress,
    PhaseEnded,
    PhaseStarted,
    Record,
    RunEnded,
    RunStarted,
    StepTaken,
)
from hftl.report import card, curves
from hftl.runtime import Runtime, compiler_failed, seed_everything
from hftl.schedule import factor

PHASE_BEST, BEST, ADAPTER = "phase-best.safetensors", "best.safetensors", "adapter"
"""In ``checkpoints/``: what the best epoch of the phase has made of what moves; all weights of the best epoch of the
run; its adapters where it has any."""

T = TypeVar("T")
Reader = Callable[[Record], None]


class Trainer(Generic[T]):
    """Runs a recipe; nothing is read or written before ``run`` or ``fit``.

    >>> trainer = Trainer(Recipe(task=ImageClassification(data="data/pets"), model="google/vit-base-patch16-224"))
    >>> trainer.fit()
    >>> trainer.evaluate("test")
    """

    def __init__(self, recipe: Recipe[T]) -> None:
        self.recipe: Recipe[Any] = recipe

    def fit(self, *readers: Reader) -> RunEnded:
        """Run the recipe to its end; every record goes to each reader (none given: to the progress display).

        Raises:
            HftlError: anything that a person can mend; what was finished before it stays in the run folder.
        """
        if not readers and first_process():
            from hftl.display import Display

            with Display() as display:
                return self.fit(display)
        for record in self.run():
            for reader in readers:
                reader(record)
        if not isinstance(record, RunEnded):
            raise RuntimeError(f"the run ended with {record}")
        return record

    def run(self) -> Iterator[Record]:
        """Run the recipe as a stream of records; what ``history.jsonl`` keeps of them is there when they are yielded.

        Nothing is written before data, model and phases are known to fit together.
        """
        self.runtime = Runtime(self.recipe.precision, self.recipe.compile)
        path = self.runtime.once(lambda: run_folder.choose(self.recipe))
        self.ready = prepare(self.recipe, self.runtime)
        self.recipe = replace(self.ready.recipe, output_dir=str(path))
        started = self.ready.run_started(path, self.runtime)
        self._worth({**started.majority, "loss": 0.0})  # a --best-by that names no score is better said now than later
        self.folder = self.runtime.once(lambda: run_folder.create(path))
        try:
            for record in self._run(started):
                if self.runtime.first:
                    self.folder.log(record)
                    if isinstance(record, RunEnded):  # both are made of the whole history
                        curves.draw(self.folder.path)
                        card.write(self.folder.path)
                yield record
        except torch.OutOfMemoryError as error:
            raise HftlError(
                f"out of memory ({one_line(error, 120)}); raise --accumulation (the result stays the "
                "same), or lower --eval-batch-size"
            ) from error
        except RuntimeError as error:
            if self.recipe.compile and compiler_failed(error):
                raise HftlError(f"--compile: {one_line(error, 200)}; leave it out") from error
            raise

    def evaluate(self, split: str = "validation") -> dict[str, float]:
        """Scores, on a split of the recipe's data, of the best model of the run that has ended.

        Raises:
            HftlError: nothing has been run yet, or the data have no such split.
        """
        if not hasattr(self, "folder") or self.folder.result is None:
            raise HftlError("evaluate: no run has ended yet; call fit() first, or use Predictor(run folder)")
        assert self.best is not None
        scores, _ = drain(self._score(split, self.best.settings))
        return dict(scores)

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self, started: RunStarted) -> Iterator[Record]:
        begun = time.monotonic()
        self.model = self.ready.loaded.model
        self.best: Evaluated | None = None
        self.ended: list[dict[str, Any]] = []
        self.runtime.once(self._write_declarations)
        yield started
        if not self.recipe.phases:
            yield from self._score_pretrained()
        for number, phase in enumerate(self.recipe.phases):
            yield from self._phase(number, phase)
        yield from self._finish(begun)

    def _phase(self, number: int, phase: Phase) -> Iterator[Record]:
        """One phase: a fresh start, its epochs, its best epoch restored."""
        begun, recipe, runtime = time.monotonic(), self.recipe, self.runtime
        started, frozen = self._fresh_start(number, phase)
        yield started
        self.source = yield from open_source(self.ready, number, self.model, frozen, runtime)
        model, optimizer = runtime.prepare(self.source.model, build_optimizer(self.model, self.groups, phase))
        best: Evaluated | None = None
        self._checkpoint(Progress(number, 0, 0), optimizer, None, frozen)

        for epoch in range(phase.epochs):
            seed = (recipe.seed, number, epoch)
            seed_everything((*seed, runtime.rank))
            self._set_modes(phase)
            train, workers = self.source.train(epoch), runtime.workers(recipe.workers)
            steps = epoch_steps(
                train, recipe.batch_size, seed, recipe.accumulation, workers, runtime.rank, runtime.world_size
            )
            meter = Meter(recipe.log_every, started.steps_per_epoch, runtime.total)
            for step, (rows, batches) in enumerate(steps, start=epoch * started.steps_per_epoch):
                lr = started.lr * factor(phase, step, phase.epochs * started.steps_per_epoch)
                set_lr(optimizer, lr)
                for batch in batches:
                    alone = fixed_statistics(self.model, when=len(batch) == 1)
                    with runtime.no_sync(model, when=batch is not batches[-1]), alone:
                        on_device = batch.to(runtime.device)
                        loss = batch.weight * self.ready.loss(model(**on_device.inputs), on_device).sum() / rows
                        runtime.backward(loss)
                    meter.add_loss(loss)
                meter.add_norm(runtime.clip(optimizer, recipe.clip_norm))
                optimizer.step()
                optimizer.zero_grad()
                if recipe.ema is not None:
                    update_average(optimizer, recipe.ema, step)
                yield StepTaken(number, epoch, step, rows, lr, *meter.read(step))

            with averaged(optimizer):
                evaluated = yield from self._validate(number, epoch, best)
                if evaluated.best:
                    best, since_best = evaluated, 0
                    self._keep(PHASE_BEST, frozen)
                else:
                    since_best += 1
            yield evaluated
            self._checkpoint(Progress(number, epoch + 1, 0), optimizer, best, frozen)
            if since_best == phase.patience:
                break

        yield self._phase_ended(phase, frozen, best, epoch + 1 < phase.epochs, time.monotonic() - begun)

    # -- what the loop is made of --------------------------------------------------------------------------------

    def _fresh_start(self, number: int, phase: Phase) -> tuple[PhaseStarted, dict[str, bytes]]:
        """Unwrap, set what is trainable; and what is frozen, by digest. A new optimizer and to prepare are next."""
        self.model = self.runtime.unwrap(self.model)
        self.groups, started = self.ready.open_phase(number, self.model)
        self._set_modes(phase)
        return started, frozen_digests(self.model)

    def _set_modes(self, phase: Phase) -> None:
        set_modes(self.model, self.groups, phase.unfreeze, update_batch_norm=phase.batch_norm == "update")

    def _validate(
        self, phase: int | None, epoch: int | None, best: Evaluated | None
    ) -> Generator[Record, None, Evaluated]:
        begun = time.monotonic()
        self.runtime.average(running_statistics(self.model))  # each process has seen its own rows
        scores, settings = yield from self._score("validation")
        better = best is None or self._worth(scores) > self._worth(best.scores)
        return Evaluated(phase, epoch, "validation", scores, better, time.monotonic() - begun, settings)

    def _score(
        self, split: str, settings: dict[str, Any] | None = None
    ) -> Generator[EvaluationProgress, None, tuple[dict[str, float], dict[str, Any]]]:
        """Scores of a split, with the task's settings: those given, or tuned on this split itself."""
        rows, recipe = self.ready.splits.of(split), self.recipe
        outputs = yield from outputs_of(self.source.model, self.source.examples(split), recipe, self.runtime, split)
        settings = recipe.task.tune(outputs, rows) if settings is None else settings
        named = {"id2label": dict(enumerate(self.ready.splits.labels)), **settings}
        return recipe.task.score(outputs, rows, named), settings

    def _worth(self, scores: dict[str, float]) -> tuple[float, float]:
        """What is highest for the best epoch: the score that chooses, and of equal ones the lower loss."""
        chosen = self.recipe.best_by or next(iter(scores))
        if chosen not in scores:
            raise HftlError(f"--best-by {chosen}: there is no such score; there are {', '.join(scores)}")
        score, loss = scores[chosen], -scores.get("loss", math.nan)
        if chosen in LOWER_IS_BETTER:
            score = -score
        # NaN is worth least, else nothing that follows would be better.
        return -math.inf if math.isnan(score) else score, -math.inf if math.isnan(loss) else loss

    def _keep(self, name: str, frozen: Collection[str] = ()) -> None:
        if self.runtime.first:
            save_weights(self.folder.checkpoints / name, self.model, frozen)

    def _restore(self, name: str) -> None:
        if self.runtime.first:
            load_weights(self.folder.checkpoints / name, self.model)
        self.runtime.equalise(self.model)

    def _checkpoint(
        self,
        progress: Progress,
        optimizer: torch.optim.Optimizer,
        phase_best: Evaluated | None,
        frozen: Collection[str],
    ) -> None:
        if not self.runtime.first:
            return
        state = {
            "best": self.best and asdict(self.best),
            "phase_best": phase_best and asdict(phase_best),
            "phases": self.ended,
        }
        save(self.folder.checkpoints / "last", progress, self.model, optimizer, state, frozen)

    def _phase_ended(
        self, phase: Phase, frozen: dict[str, bytes], best: Evaluated | None, stopped_early: bool, seconds: float
    ) -> PhaseEnded:
        """Restore the best epoch, see that what was frozen is bit-equal, keep the best of the run, merge adapters."""
        assert best is not None
        assert best.phase is not None
        assert best.epoch is not None
        number = best.phase
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if len(set(self.runtime.gather(digest(trained)))) > 1:
            raise RuntimeError("the processes' parameters have drifted apart; this is a bug of hftl")
        self._restore(PHASE_BEST)
        self._set_modes(phase)
        moved = [name for name, after in frozen_digests(self.model).items() if frozen.get(name) != after]
        if moved:
            raise RuntimeError(f"{len(moved)} tensors moved that were frozen, {moved[0]} first; this is a bug of hftl")
        better = self.best is None or self._worth(best.scores) > self._worth(self.best.scores)
        if better:
            self.runtime.once(lambda: self._keep_adapters(number, phase))
        adapters.merge(self.model)
        if better:
            self.best = best
            self._keep(BEST)
        result = digest(self.model.state_dict())
        ended = PhaseEnded(number, best.epoch, best.scores, stopped_early, len(frozen), seconds, result)
        trainable = sum(parameter.numel() for parameter in trained.values())
        declared = {"unfreeze": str(phase.unfreeze), "train": phase.train, "trainable": trainable}
        self.ended.append({**asdict(ended), **declared})
        return ended

    def _keep_adapters(self, number: int, phase: Phase) -> None:
        """Those of the best phase, where all else but neck and head is still bit-equal to a checkpoint of its kind."""
        kept = self.folder.checkpoints / ADAPTER
        shutil.rmtree(kept, ignore_errors=True)
        apart = phase.train == "lora" and not self.ready.loaded.converted
        if apart and all(earlier.head_only for earlier in self.recipe.phases[:number]):
            adapters.save(kept, self.model, self.groups, phase.lora, self.recipe.model)

    def _score_pretrained(self) -> Iterator[Record]:
        self._compute_plainly()
        self.best = yield from self._validate(None, None, None)
        yield self.best

    def _compute_plainly(self) -> None:
        """Evaluate the model itself from now on."""
        self.model = self.runtime.prepare_evaluation(self.runtime.unwrap(self.model))
        self.source = Source(self.model, self.ready.examples, lambda _: self.ready.examples("train"))

    def _finish(self, begun: float) -> Iterator[Record]:
        """Restore the best of the run, score it on the test split, write what lasts."""
        assert self.best is not None
        if self.best.phase is not None:
            self._restore(BEST)
        if self.best.phase != len(self.recipe.phases) - 1:  # stored features are those of the last phase
            self._compute_plainly()
        scores = {"validation": self.best.scores}
        if "test" in self.ready.splits.named():
            started = time.monotonic()
            scores["test"], _ = yield from self._score("test", self.best.settings)
            yield Evaluated(self.best.phase, self.best.epoch, "test", scores["test"], False, time.monotonic() - started)
        self.model = self.runtime.unwrap(self.model)
        saved = self.runtime.once(lambda: self._write_result(scores))
        self._compute_plainly()  # whoever evaluates it now gets the scores of the run
        seconds = time.monotonic() - begun
        yield RunEnded(self.best.phase, self.best.epoch, scores, str(self.folder.path), seconds, saved)

    def _write_result(self, scores: dict[str, dict[str, float]]) -> str:
        """Model or adapters, and the scores; which of the two."""
        assert self.best is not None
        self.model.config.update(self.best.settings)
        kept = self.folder.checkpoints / ADAPTER
        if kept.is_dir() and not self.recipe.merge_lora:
            self.model.config.save_pretrained(kept)
            self.ready.processor.save_pretrained(kept)
            let_others_read(kept)
            kept.rename(self.folder.adapter)
        else:
            save_pretrained(self.folder.model, self.model, self.ready.processor)
        best = {"phase": self.best.phase, "epoch": self.best.epoch}
        metrics = {"best": best, "majority": self.ready.majority(), "phases": self.ended, **scores}
        run_folder.write_text(self.folder.metrics, json.dumps(metrics, indent=2) + "\n")
        shutil.rmtree(self.folder.checkpoints, ignore_errors=True)
        return "model" if self.folder.model.is_dir() else "adapter"

    def _write_declarations(self) -> None:
        environment = run_folder.environment(str(self.runtime.device), self.runtime.precision)
        run_folder.write_text(self.folder.environment, json.dumps(environment, indent=2) + "\n")
        run_folder.write_text(self.folder.recipe, to_yaml(self.recipe))
        if self.ready.splits.bad_rows:
            write_bad_rows(self.folder.bad_rows, self.ready.splits.bad_rows)
        if self.ready.wants_views:
            views = self.ready.examples("train", augment=True).at((self.recipe.seed,)).picture()
            if views is not None:
                views.save(self.folder.views)


class Meter:
    """Means of loss and gradient norm over a few steps, summed on the device: no step waits for the host.

    They can be read after every ``every`` steps of an epoch of ``steps``, and after its last. ``total`` sums a loss
    over all processes: each has its share.
    """

    def __init__(self, every: int, steps: int, total: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.every, self.steps, self.total = every, steps, total
        self.loss: torch.Tensor | float = 0.0
        self.norm: torch.Tensor | float = 0.0
        self.count = 0

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add a micro-batch's share of the loss of its step."""
        self.loss = self.loss + loss.detach()

    def add_norm(self, norm: torch.Tensor) -> None:
        """Add a step's gradient norm; the step is complete."""
        self.norm = self.norm + norm.detach()
        self.count += 1

    def read(self, step: int) -> tuple[float | None, float | None]:
        """The means, where ``step`` (counted from 0 within the phase) is one after which they are due; else None.

        Raises:
            HftlError: the loss is no longer a number.
        """
        done = step % self.steps + 1
        if done % self.every and done != self.steps:
            return None, None
        loss = float(self.total(torch.as_tensor(self.loss))) / self.count
        norm = float(self.norm) / self.count
        self.loss, self.norm, self.count = 0.0, 0.0, 0
        if not math.isfinite(loss):
            raise HftlError(f"the loss is {loss} at step {step}; lower the learning rate, or use --precision fp32")
        return loss, norm if math.isfinite(norm) else None  # a step that fp16 has skipped has no norm
