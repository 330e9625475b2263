"""The ways to train that are compared. Each is run in a process of its own:

python -m benchmarks.contenders FOLDER

reads ``job.json`` there and writes ``result.json``. ``seconds`` go from the moment that data and model are loaded,
before the first step, to the end of the last evaluation.
"""

from __future__ import annotations

import importlib
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plan import TASKS, Job

from hftl.tasks import find


def with_trainer(job: Job, folder: Path) -> dict[str, Any]:
    """transformers.Trainer: as people run it, or well set up."""
    import numpy as np
    import torch
    import transformers as tf
    from datasets import load_from_disk

    model, processor = load_model(job)
    data = load_from_disk(job.data)
    collator = None

    def score(found: Any) -> dict[str, float]:
        return {"score": float(np.mean(found.predictions.argmax(-1) == found.label_ids))}

    if job.source.kind == "question":
        data, score = padded_questions(job, data, processor)
    elif job.source.kind == "audio":
        data.set_transform(lambda rows: {**heard(job, rows["audio"], processor), "labels": rows["label"]})
    elif job.source.kind == "text":
        grouped = job.well_set_up
        columns = [name for name in data["train"].column_names if name != "label"]

        def tokenise(rows: dict[str, Any]) -> dict[str, Any]:
            coded = processor(rows["text"], truncation=True)
            return {**coded, "length": [len(ids) for ids in coded["input_ids"]]} if grouped else dict(coded)

        data = data.map(tokenise, batched=True, remove_columns=columns).rename_column("label", "labels")
        collator = tf.DataCollatorWithPadding(processor)
    elif job.well_set_up and job.unfreeze == "head":  # in a single epoch to cache is no gain
        data = {name: CachedImages(split, processor) for name, split in data.items()}
    else:

        def transform(rows: dict[str, Any]) -> dict[str, Any]:
            images = [image.convert("RGB") for image in rows["image"]]
            return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "labels": rows["label"]}

        data.set_transform(transform)

    stamps: list[float] = []
    scores: list[float] = []

    class Clock(tf.TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            if not stamps:
                stamps.append(time.perf_counter())

        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            stamps.append(time.perf_counter())
            scores.append(metrics["eval_score"])

    arguments = tf.TrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=job.measured_epochs,
        per_device_train_batch_size=job.batch,
        per_device_eval_batch_size=job.eval_batch,
        learning_rate=job.lr,
        weight_decay=0.01,
        warmup_steps=0.1,
        bf16=job.precision == "bf16",
        fp16=job.precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=job.source.kind not in ("image", "audio"),
        dataloader_num_workers=job.workers,
        dataloader_persistent_workers=job.workers > 0,
        dataloader_pin_memory=torch.cuda.is_available(),
        train_sampling_strategy="group_by_length" if job.well_set_up and job.source.kind == "text" else "random",
        seed=job.seed,
    )
    trainer = tf.Trainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=collator,
        processing_class=processor,
        compute_metrics=score,
        callbacks=[Clock()],
    )
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "epoch_seconds": differences(stamps), "accuracies": scores}


def heard(job: Job, files: list[str], processor: Any) -> dict[str, Any]:
    """The first window of each recording, as the model takes it."""
    from hftl.audio.sounds import read_sound
    from hftl.audio.views import fitted

    rate, seconds = processor.sampling_rate, job.source.size / 1000
    waves = [fitted(read_sound(file, rate, 0.0, seconds), round(rate * seconds)) for file in files]
    return dict(processor(waves, sampling_rate=rate, return_tensors="pt"))


def padded_questions(job: Job, data: Any, tokenizer: Any) -> tuple[Any, Callable[[Any], dict[str, float]]]:
    """Windows all padded to one length, and F1 by trying the best starts with the best ends: as Trainer's examples.

    The threshold of no answer is tuned as hftl does, so that the two F1 compare.
    """
    import numpy as np

    from hftl.text.spans import threshold
    from hftl.text.squad import compare_answers
    from hftl.text.windows import cut_windows

    names = {"first": "start_positions", "last": "end_positions"}
    task, length = task_of(job, job.data), job.source.size
    windows = {name: cut_windows(split, tokenizer, job.source.size // 3) for name, split in data.items()}
    padded = {
        name: split.map(lambda rows: dict(tokenizer.pad(rows, padding="max_length", max_length=length)), batched=True)
        for name, split in windows.items()
    }
    contexts, golds = data["validation"]["context"], [each["text"] for each in data["validation"]["answers"]]

    def score(found: Any) -> dict[str, float]:
        best = dict.fromkeys(range(len(contexts)), (-np.inf, ""))
        null = dict.fromkeys(best, np.inf)
        starts, ends = found.predictions[:2]
        for window, start, end in zip(windows["validation"], starts, ends, strict=True):
            question, begins, finishes = window["question_row"], window["begins"], window["ends"]
            null[question] = min(null[question], start[0] + end[0])
            for i in np.argsort(start)[-1:-21:-1].tolist():
                for j in np.argsort(end)[-1:-21:-1].tolist():
                    inside = i < len(begins) and j < len(begins) and begins[i] >= 0 and begins[j] >= 0
                    if inside and i <= j < i + task.max_answer_length and start[i] + end[j] > best[question][0]:
                        best[question] = start[i] + end[j], contexts[question][begins[i] : finishes[j]]
        spans, nothing = [text for _, text in best.values()], [""] * len(best)
        margin = np.clip([null[question] - value for question, (value, _) in best.items()], -1e6, 1e6)
        each = [np.array([compare_answers(*pair)[0] for pair in zip(g, golds, strict=True)]) for g in (spans, nothing)]
        return {"score": float(np.where(margin > threshold(margin, *each), each[1], each[0]).mean())}

    return {name: split.rename_columns(names) for name, split in padded.items()}, score


class CachedImages:
    """Images as the processor makes them, computed once and kept in memory."""

    def __init__(self, rows: Any, processor: Any) -> None:
        import torch

        images = [image.convert("RGB") for image in rows["image"]]
        parts = [images[start : start + 64] for start in range(0, len(images), 64)]
        self.pixels = torch.cat([processor(part, return_tensors="pt")["pixel_values"] for part in parts])
        self.labels = rows["label"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[row], "labels": self.labels[row]}


def script(job: Job, folder: Path) -> dict[str, Any]:
    """What people write in twenty lines: features of all rows once, then a linear layer on them."""
    import torch
    from datasets import load_from_disk
    from torch.nn.functional import cross_entropy, dropout
    from transformers import get_linear_schedule_with_warmup

    data, (model, processor) = load_from_disk(job.data), load_model(job)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone, mixed = model.base_model.to(device).eval(), job.precision != "fp32"
    dtype = torch.float16 if job.precision == "fp16" else torch.bfloat16
    begun = time.perf_counter()

    def features(rows: Any) -> tuple[Any, Any]:
        found = []
        for start in range(0, len(rows), job.eval_batch):
            batch = rows[start : start + job.eval_batch]
            if job.source.kind == "image":
                inputs = processor([image.convert("RGB") for image in batch["image"]], return_tensors="pt")
            else:
                inputs = processor(batch["text"], truncation=True, padding=True, return_tensors="pt")
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=mixed):
                outputs = backbone(**inputs.to(device))
            pooled = outputs.get("pooler_output")
            found.append((outputs.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)).float())
        return torch.cat(found), torch.tensor(rows["label"], device=device)

    (x, y), (seen, wanted) = features(data["train"]), features(data["validation"])
    linear = torch.nn.Linear(x.shape[1], model.config.num_labels).to(device)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=job.lr, weight_decay=0.01)
    steps = job.epochs * -(-len(x) // job.batch)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    stamps, scores = [time.perf_counter()], []
    for _ in range(job.epochs):
        for rows in torch.randperm(len(x)).split(job.batch):
            cross_entropy(linear(dropout(x[rows], 0.1)), y[rows]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        with torch.no_grad():
            scores.append(float((linear(seen).argmax(1) == wanted).float().mean()))
        stamps.append(time.perf_counter())
    return {"seconds": stamps[-1] - begun, "epoch_seconds": differences(stamps), "accuracies": scores}


def hftl(job: Job, folder: Path) -> dict[str, Any]:
    """hftl. Its checkpoints after each epoch are part of the time, as in any run."""
    from hftl import Trainer
    from hftl.records import Evaluated, PhaseEnded, PhaseStarted, RunStarted

    stamps: list[float] = []
    scores: list[float] = []
    notes: list[str] = []
    for record in Trainer(recipe_of(job, folder)).run():
        now = time.perf_counter()
        if isinstance(record, RunStarted):
            begun, notes = now, record.notes
        elif isinstance(record, PhaseStarted):
            stamps.append(now)
        elif isinstance(record, Evaluated) and record.split == "validation":
            stamps.append(now)
            scores.append(next(iter(record.scores.values())))
        elif isinstance(record, PhaseEnded):
            phase = now - begun
    stored = size_of(folder / "store")
    return {
        "seconds": stamps[-1] - begun,
        "phase_seconds": phase,
        "epoch_seconds": differences(stamps),
        "accuracies": scores,
        "stored_mb": stored / 1e6,
        "notes": notes,
    }


def bound(job: Job, folder: Path) -> dict[str, Any]:
    """One forward pass over all rows, reading included, as hftl computes it; nothing else."""
    from hftl.predictor import drain, outputs_of
    from hftl.prepare import prepare
    from hftl.runtime.runtime import Runtime

    recipe = recipe_of(job, folder)
    runtime = Runtime(recipe.precision)
    ready = prepare(recipe, runtime)
    model = runtime.prepare_evaluation(ready.loaded.model)
    begun = time.perf_counter()
    for split in ("train", "validation"):
        drain(outputs_of(model, ready.examples(split), ready.recipe, runtime, split))
    return {"seconds": time.perf_counter() - begun}


def task_of(job: Job, data: Any) -> Any:
    """hftl's task on these data; its image processor and tokenizer serve all contenders."""
    from hftl.tasks import AudioClassification, ImageClassification, QuestionAnswering, TextClassification

    if job.source.kind == "question":
        return QuestionAnswering(data, max_length=job.source.size)
    common: dict[str, Any] = {"data": data, "lone_labels": "keep"}  # few rows may lack a label
    if job.source.kind == "audio":
        return AudioClassification(**common, seconds=job.source.size / 1000, augment=job.augment)
    if job.source.kind == "image":
        return ImageClassification(**common, image_size=job.source.size, augment=job.augment)
    return TextClassification(**common, max_length=job.source.size)


def recipe_of(job: Job, folder: Path) -> Any:
    """The job as a recipe, with a feature store of its own."""
    from hftl import Phase, Recipe
    from hftl.recipe.recipe import Store

    return Recipe(
        task=task_of(job, job.data),
        model=job.source.model,
        phases=(Phase(job.unfreeze, job.measured_epochs, job.lr),),
        output_dir=str(folder / "run"),
        seed=job.seed,
        batch_size=job.batch,
        eval_batch_size=job.eval_batch,
        precision=job.precision,
        store=Store(use=job.store, dir=str(folder / "store")),
    )


def load_model(job: Job) -> tuple[Any, Any]:
    """The model with a new head for the peers, and its processor; frozen and malloc set as the job says."""
    import torch
    import transformers as tf
    from datasets import load_from_disk

    from hftl.model.heads import set_head_dropout
    from hftl.runtime.machine import keep_freed_memory

    if job.well_set_up or job.way == "script":
        keep_freed_memory()  # as hftl does
    torch.manual_seed(job.seed)
    if job.source.kind == "audio":  # what is to be put behind a spectrogram only hftl loads
        task = task_of(job, job.data)
        names, processor = (
            load_from_disk(job.data)["train"].features["label"].names,
            task.load_processor(job.source.model, False),
        )
        loaded = task.load_model(job.source.model, names, processor, False, 0.1, False).model
        if job.unfreeze == "head":
            loaded.base_model.requires_grad_(False)
        return loaded, processor
    asked = job.source.kind == "question"
    model = getattr(tf, find(TASKS[job.source.kind]).auto_class).from_pretrained(
        job.source.model,
        num_labels=2 if asked else load_from_disk(job.data)["train"].features["label"].num_classes,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    set_head_dropout(model, 0.1)  # MobileNetV2's checkpoint says 0.8
    if job.unfreeze == "head":
        model.base_model.requires_grad_(False)
    return model, task_of(job, job.data).load_processor(job.source.model, False)


def differences(stamps: list[float]) -> list[float]:
    """Seconds between each two."""
    return [after - before for before, after in itertools.pairwise(stamps)]


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


WAYS: dict[str, Callable[[Job, Path], dict[str, Any]]] = {
    "trainer": with_trainer,
    "script": script,
    "hftl": hftl,
    "bound": bound,
}


def main() -> None:
    folder = Path(sys.argv[1])
    job = Job.of(json.loads((folder / "job.json").read_text(encoding="utf-8")))
    way = WAYS.get(job.way) or importlib.import_module(f"benchmarks.{job.way}").measure
    found = way(job, folder)
    import torch

    found |= {
        "threads": torch.get_num_threads(),
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    if torch.cuda.is_available():
        found["gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
