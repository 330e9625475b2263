"""Phases -> epochs -> steps -> evaluation: the one loop of every modality."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Generic, TypeVar

import torch

from hftl import run_folder
from hftl.certainty import error_of, parts_of
from hftl.checkpoint import Progress, let_others_read, load_weights, save, save_pretrained, save_weights
from hftl.choice import Choice
from hftl.data.batches import Outputs, epoch_steps
from hftl.data.splits import write_bad_rows
from hftl.errors import HftlError, one_line
from hftl.features.source import Source, open_source
from hftl.meter import Meter
from hftl.model import adapters
from hftl.model.last_layer import LOGITS, put_in, rows_of, scale, solve_head
from hftl.model.layers import digest, fixed_statistics, frozen_digests, running_statistics, set_modes
from hftl.model.optim import averaged, build_optimizer, set_lr, update_average
from hftl.predictor import drain, outputs_of
from hftl.prepare import prepare
from hftl.quiet import first_process
from hftl.recipe.defaults import HEAD_SCALE
from hftl.recipe.phase import Phase
from hftl.recipe.recipe import Recipe, to_yaml
from hftl.recipe.schedule import factor
from hftl.records import (
    LOWER_IS_BETTER,
    Evaluated,
    EvaluationProgress,
    HeadSolved,
    Noted,
    PhaseEnded,
    PhaseStarted,
    Record,
    RunEnded,
    RunStarted,
    StepTaken,
)
from hftl.report import card, curves
from hftl.runtime.machine import compiler_failed
from hftl.runtime.randomness import seed_everything
from hftl.runtime.runtime import Runtime

BEGINNING, PHASE_BEST, BEST, ADAPTER = "beginning.safetensors", "phase-best.safetensors", "best.safetensors", "adapter"
"""In ``checkpoints/``: all weights as the run began with them; what the best epoch of the phase has made of what moves;
all weights of the best epoch of the run; its adapters where it has any."""

NOT_SOLVED = "to be solved it needs stored features"

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

    def fit(self, *readers: Reader, display: bool = True) -> RunEnded:
        """Run the recipe to its end; on the first process every record goes to each reader.

        Args:
            readers: called with each record (see ``hftl.records``), in this order.
            display: whether the progress is shown as well.

        Raises:
            HftlError: anything that a person can mend; what was finished before it stays in the run folder.
        """
        first = first_process()
        with contextlib.ExitStack() as stack:
            if display and first:
                from hftl.display import Display

                readers = (stack.enter_context(Display()), *readers)
            for record in self.run():
                for reader in readers if first else ():
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

        Where it was trained once more on all rows (see ``Recipe.refit``), those of ``validation`` were among these: its
        scores there say little, and those that chose it are in ``metrics.json``.

        Raises:
            HftlError: nothing has been run yet, or the data have no such split.
        """
        if not hasattr(self, "folder") or self.folder.result is None:
            raise HftlError("evaluate: no run has ended yet; call fit() first, or use Predictor(run folder)")
        scores: dict[str, float] = drain(self._score(split, self.best.settings))
        return scores

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self, started: RunStarted) -> Iterator[Record]:
        begun = time.monotonic()
        self.model = self.ready.loaded.model
        self.choice, self.ended = self._new_choice(), list[dict[str, Any]]()
        self.runtime.once(self._write_declarations)
        yield started
        if not self.recipe.phases:
            yield from self._score_pretrained()
        if self.recipe.refit:
            self._keep(BEGINNING)
        for number, phase in enumerate(self.recipe.phases):
            yield from self._phase(number, phase)
        if self.recipe.refit:
            yield from self._refit()
        yield from self._finish(begun)

    def _phase(self, number: int, phase: Phase, solved_only: bool = False) -> Iterator[Record]:
        """One phase: a fresh start, a head that is solved or epochs of steps, what is kept of it restored."""
        begun = time.monotonic()
        started, frozen = self._fresh_start(number, phase)
        yield started
        self.source = yield from open_source(self.ready, number, self.model, frozen, self.runtime)
        self.phase_choice = self._new_choice()
        solved = started.solver == "lbfgs" and (yield from self._solve(number, phase, started, frozen))
        if started.solver == "lbfgs" and not solved:
            phase = replace(phase, lr=self.recipe.task.head_lr)
            started = replace(started, lr=self.recipe.task.head_lr, epochs=phase.epochs or 0)
            yield Noted(number, f"the head trains in steps, {phase.epochs} epochs at lr {phase.lr:.2g}: {NOT_SOLVED}")
        last_layer_only = solved and (solved_only or not started.epochs)
        stop = 0 if last_layer_only else phase.epochs or 0
        done = (yield from self._train(number, phase, started, frozen, stop)) if stop else 0
        last = done - 1 if done else None
        yield self._phase_ended(number, phase, frozen, last, done < stop, time.monotonic() - begun)

    def _train(
        self, number: int, phase: Phase, started: PhaseStarted, frozen: dict[str, bytes], stop: int
    ) -> Generator[Record, None, int]:
        """Epochs of steps until ``stop``, or until none has been better for long; how many there were."""
        recipe, runtime, ready = self.recipe, self.runtime, self.ready
        assert phase.epochs is not None
        model, optimizer = runtime.prepare(self.source.model, build_optimizer(self.model, self.groups, phase))
        self._checkpoint(Progress(number, 0, 0), optimizer, frozen)
        for epoch in range(stop):
            seed = (recipe.seed, number, epoch)
            seed_everything((*seed, runtime.rank))
            self._set_modes(phase)
            train, workers = self.source.train(epoch), runtime.workers(recipe.workers)
            steps = epoch_steps(
                train, ready.batch_size, seed, recipe.accumulation, workers, runtime.rank, runtime.world_size
            )
            meter = Meter(recipe.log_every, started.steps_per_epoch, runtime.total)
            for step, (rows, batches) in enumerate(steps, start=epoch * started.steps_per_epoch):
                lr = started.lr * factor(phase, step, phase.epochs * started.steps_per_epoch)
                set_lr(optimizer, lr)
                for batch in batches:
                    alone = fixed_statistics(self.model, when=len(batch) == 1)
                    with runtime.no_sync(model, when=batch is not batches[-1]), alone:
                        on_device = batch.to(runtime.device)
                        loss = batch.weight * ready.loss(model(**on_device.inputs), on_device).sum() / rows
                        runtime.backward(loss)
                    meter.add_loss(loss)
                meter.add_norm(runtime.clip(optimizer, recipe.clip_norm))
                optimizer.step()
                optimizer.zero_grad()
                if recipe.ema is not None:
                    update_average(optimizer, recipe.ema, step)
                yield StepTaken(number, epoch, step, rows, lr, *meter.read(step))

            with averaged(optimizer):
                yield from self._evaluate(number, epoch, frozen)
            self._checkpoint(Progress(number, epoch + 1, 0), optimizer, frozen)
            if self.phase_choice.waiting == phase.patience:
                break
        return epoch + 1

    # -- what the loop is made of --------------------------------------------------------------------------------

    def _fresh_start(self, number: int, phase: Phase) -> tuple[PhaseStarted, dict[str, bytes]]:
        """Unwrap, set what is trainable; and what is frozen, by digest. A new optimizer and to prepare are next."""
        self.model = self.runtime.unwrap(self.model)
        self.groups, started = self.ready.open_phase(number, self.model)
        self._set_modes(phase)
        return started, frozen_digests(self.model)

    def _set_modes(self, phase: Phase) -> None:
        set_modes(self.model, self.groups, phase.unfreeze, update_batch_norm=phase.batch_norm == "update")

    def _solve(
        self, number: int, phase: Phase, started: PhaseStarted, frozen: Collection[str]
    ) -> Generator[Record, None, bool]:
        """Put the last layer of the head at its optimum on stored features; whether there are any.

        Where more of the head trains, it is made small afterwards, so that the layers below learn in the steps to come.
        """
        begun, task, runtime = time.monotonic(), self.recipe.task, self.runtime
        if not self.source.stored:
            return False
        runtime.prepare_evaluation(self.source.model)
        found = self.ready.last_layer(self.model)
        assert found is not None
        views = [self.source.train(view) for view in range(self.ready.views(number))]
        rows = rows_of(self.source.model, found.module, views, task.reduce, runtime.device)
        solution = runtime.once(lambda: solve_head(rows, found.module, self.ready.loss, phase, self.recipe.seed))
        put_in(solution, found.module)
        if self.ready.first is None:
            chosen = replace(phase, penalty=solution.penalty, temperature=solution.temperature)
            self.recipe = replace(
                self.recipe, phases=(*self.recipe.phases[:number], chosen, *self.recipe.phases[number + 1 :])
            )
        scores: dict[str, float] = {}
        if solution.left_out is not None and len(views) == 1:
            outputs = {LOGITS: solution.left_out.numpy()}
            train = self.ready.splits.train
            scores = task.score(outputs, train, self._named(task.tune(outputs, train)))
        size, (count, width) = solution.folds, rows.features.shape
        spent = time.monotonic() - begun
        yield HeadSolved(number, found.name, count, width, solution.penalty, solution.temperature, size, scores, spent)
        yield from self._evaluate(number, None, frozen)
        if started.epochs:
            runtime.unwrap(self.source.model)
            scale(found.module, HEAD_SCALE)
        return True

    def _refit(self) -> Iterator[Record]:
        """Train once more on all rows, as the model that was kept: the same phases, each for as many epochs.

        The learning rate comes down to the end of these, also where the first pass went on with it.
        """
        assert self.best.phase is not None
        first, ended = len(self.recipe.phases), [each["best_epoch"] for each in self.ended[: self.best.phase + 1]]
        again = [
            phase if epoch is None else replace(phase, epochs=epoch + 1)
            for phase, epoch in zip(self.recipe.phases, ended, strict=False)
        ]
        self.model = self.runtime.unwrap(self.model)
        self._restore(BEGINNING)
        self.ready = self.ready.on_all_rows(again)
        with self.runtime.first_on_machine():
            self.ready.examples("train")
        for number, epoch in enumerate(ended, start=first):
            yield from self._phase(number, self.ready.recipe.phases[number], solved_only=epoch is None)

    def _evaluate(self, number: int, epoch: int | None, frozen: Collection[str]) -> Iterator[Record]:
        """Scores on validation, and whether this is what is kept; in the second pass, what is last is."""
        self.runtime.average(running_statistics(self.model))  # each process has seen its own rows
        if self.ready.first:
            self._keep(PHASE_BEST, frozen)
            return
        evaluated = yield from self._validate(number, epoch)
        if self.phase_choice.take(evaluated):
            evaluated = replace(evaluated, best=True)
            self._keep(PHASE_BEST, frozen)
        yield evaluated

    def _validate(self, phase: int | None, epoch: int | None) -> Generator[Record, None, Evaluated]:
        begun, task = time.monotonic(), self.recipe.task
        outputs = yield from self._outputs("validation")
        rows = self.ready.splits.validation
        settings = task.tune(outputs, rows)
        named = self._named(settings)
        scores, parts = task.score(outputs, rows, named), parts_of(task.correctness(outputs, rows, named))
        return Evaluated(phase, epoch, "validation", scores, False, time.monotonic() - begun, settings, parts)

    def _score(self, split: str, settings: dict[str, Any]) -> Generator[EvaluationProgress, None, dict[str, float]]:
        """Scores of a split, with the task's settings."""
        outputs = yield from self._outputs(split)
        scores: dict[str, float] = self.recipe.task.score(outputs, self.ready.splits.of(split), self._named(settings))
        return scores

    def _outputs(self, split: str) -> Generator[EvaluationProgress, None, Outputs]:
        self.ready.splits.of(split)  # the data may have no such
        return outputs_of(self.source.model, self.source.examples(split), self.recipe, self.runtime, split)

    def _named(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"id2label": dict(enumerate(self.ready.splits.labels)), **settings}

    def _new_choice(self) -> Choice:
        return Choice(self._worth, strict=self.recipe.best_by in LOWER_IS_BETTER)

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

    def _checkpoint(self, progress: Progress, optimizer: torch.optim.Optimizer, frozen: Collection[str]) -> None:
        if not self.runtime.first:
            return
        state = {"choice": self.choice.state(), "phase_choice": self.phase_choice.state(), "phases": self.ended}
        save(self.folder.checkpoints / "last", progress, self.model, optimizer, state, frozen)

    def _phase_ended(
        self,
        number: int,
        phase: Phase,
        frozen: dict[str, bytes],
        last: int | None,
        stopped_early: bool,
        seconds: float,
    ) -> PhaseEnded:
        """Restore what is kept of the phase, see that what was frozen is bit-equal, keep the best, merge adapters."""
        kept, second = self.phase_choice.kept, self.ready.first is not None
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if len(set(self.runtime.gather(digest(trained)))) > 1:
            raise RuntimeError("the processes' parameters have drifted apart; this is a bug of hftl")
        self._restore(PHASE_BEST)
        self._set_modes(phase)
        moved = [name for name, after in frozen_digests(self.model).items() if frozen.get(name) != after]
        if moved:
            raise RuntimeError(f"{len(moved)} tensors moved that were frozen, {moved[0]} first; this is a bug of hftl")
        better = second or (kept is not None and self.choice.take(kept, self.phase_choice.top))
        if better:
            self.runtime.once(lambda: self._keep_adapters(number, phase))
        adapters.merge(self.model)
        if better:
            self._keep(BEST)
            self.last_kept = number
        result = digest(self.model.state_dict())
        epoch, scores = (kept.epoch, kept.scores) if kept else (last, {})
        ended = PhaseEnded(number, epoch, scores, stopped_early, len(frozen), seconds, result, second)
        trainable = sum(parameter.numel() for parameter in trained.values())
        declared = {"unfreeze": str(phase.unfreeze), "train": phase.train, "trainable": trainable}
        self.ended.append({**asdict(ended), **declared})
        return ended

    def _keep_adapters(self, number: int, phase: Phase) -> None:
        """Those of the best phase, where all else but neck and head is still bit-equal to a checkpoint of its kind."""
        kept = self.folder.checkpoints / ADAPTER
        shutil.rmtree(kept, ignore_errors=True)
        apart = phase.train == "lora" and not self.ready.loaded.converted
        before = self.ready.recipe.phases[len(self.recipe.phases) if self.ready.first else 0 : number]
        if apart and all(earlier.head_only for earlier in before):
            adapters.save(kept, self.model, self.groups, phase.lora, self.recipe.model)

    def _score_pretrained(self) -> Iterator[Record]:
        self._compute_plainly()
        evaluated = yield from self._validate(None, None)
        self.choice.take(evaluated)
        yield replace(evaluated, best=True)

    @property
    def best(self) -> Evaluated:
        """The evaluation of the model that is kept of the run."""
        assert self.choice.kept is not None
        return self.choice.kept

    def _compute_plainly(self) -> None:
        """Evaluate the model itself from now on."""
        self.model = self.runtime.prepare_evaluation(self.runtime.unwrap(self.model))
        self.source = Source(self.model, self.ready.examples, lambda _: self.ready.examples("train"))

    def _finish(self, begun: float) -> Iterator[Record]:
        """Restore the best of the run, score it on the test split, write what lasts."""
        if self.best.phase is not None:
            self._restore(BEST)
        if not self.ended or self.last_kept != self.ended[-1]["phase"]:  # stored features are those of the last phase
            self._compute_plainly()
        scores = {"validation": self.best.scores}
        if "test" in self.ready.splits.named():
            started = time.monotonic()
            scores["test"] = yield from self._score("test", self.best.settings)
            yield Evaluated(self.best.phase, self.best.epoch, "test", scores["test"], False, time.monotonic() - started)
        self.model = self.runtime.unwrap(self.model)
        saved = self.runtime.once(lambda: self._write_result(scores))
        self._compute_plainly()  # whoever evaluates it now gets the scores of the run
        seconds = time.monotonic() - begun
        yield RunEnded(
            best_phase=self.best.phase,
            best_epoch=self.best.epoch,
            scores=scores,
            folder=str(self.folder.path),
            seconds=seconds,
            saved=saved,
            refit=self.ready.first is not None,
            error=error_of(self.best.parts),
        )

    def _write_result(self, scores: dict[str, dict[str, float]]) -> str:
        """Model or adapters, and the scores; which of the two."""
        self.model.config.update(self.best.settings)
        kept = self.folder.checkpoints / ADAPTER
        if kept.is_dir() and not self.recipe.merge_lora:
            self.model.config.save_pretrained(kept)
            self.ready.processor.save_pretrained(kept)
            let_others_read(kept)
            kept.rename(self.folder.adapter)
        else:
            save_pretrained(self.folder.model, self.model, self.ready.processor)
        best = {
            "phase": self.best.phase,
            "epoch": self.best.epoch,
            "refit": self.ready.first is not None,
            "error": error_of(self.best.parts),
        }
        metrics = {"best": best, "majority": self.ready.majority(), "phases": self.ended, **scores}
        run_folder.write_text(self.folder.metrics, json.dumps(metrics, indent=2) + "\n")
        run_folder.write_text(self.folder.recipe, to_yaml(self.recipe))  # with the penalties that were chosen
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
