"""One contender on the rows of one cell, in a process of its own:

python -m benchmarks.defaults.contenders FOLDER

reads ``job.json`` there and writes ``result.json``: the score on the test rows, and the seconds from the moment that
data and model are loaded, without those of testing. It is run with hftl as it was as well, and so uses of it only what
both have.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]


def task_of(job: Job) -> Any:
    """hftl's task, with nothing set but the size of what the model sees."""
    from hftl.tasks import AudioClassification, ImageClassification, QuestionAnswering, TextClassification

    data, size = job["data"], job["size"]
    if job["kind"] == "question":
        return QuestionAnswering(data, max_length=size, doc_stride=64)
    if job["kind"] == "audio":
        return AudioClassification(data, seconds=size / 1000)
    if job["kind"] == "image":
        return ImageClassification(data, image_size=size)
    return TextClassification(data, max_length=size)


def with_hftl(job: Job, folder: Path) -> dict[str, Any]:
    """hftl at its defaults; ``curve`` has the test score after each epoch of the first pass, where it is asked for."""
    from hftl import Recipe, Store, Trainer, strategies
    from hftl.records import Evaluated, PhaseEnded, RunEnded, RunStarted

    trainer: Any = Trainer(
        Recipe(
            task=task_of(job),
            model=job["model"],
            phases=strategies.by_name(job["strategy"]),
            output_dir=str(folder / "run"),
            seed=job["seed"],
            precision="fp32",
            store=Store(dir=str(folder / "store")),
            **job["settings"],
        )
    )
    seconds, curve, phases, before = 0.0, list[list[float]](), list[dict[str, Any]](), time.perf_counter()
    for record in trainer.run():
        now = time.perf_counter()
        if not isinstance(record, RunStarted) and getattr(record, "split", "") != "test":
            seconds += now - before
        if job["curve"] and isinstance(record, Evaluated) and record.split == "validation":
            curve.append([seconds, _tested(trainer, record.settings)])
        if isinstance(record, PhaseEnded):
            phases.append({"seconds": seconds, "epoch": record.best_epoch, "scores": record.scores})
        if isinstance(record, RunEnded):
            ended = record
        before = time.perf_counter()
    score = next(iter(ended.scores["test"].values()))
    chosen = (folder / "run/recipe.yaml").read_text(encoding="utf-8")
    best = [ended.best_phase, ended.best_epoch]
    return {"score": score, "seconds": seconds, "curve": curve, "phases": phases, "best": best, "recipe": chosen}


def _tested(trainer: Any, settings: dict[str, Any]) -> float:
    """The score on the test rows in the middle of a run."""
    from hftl.predictor import drain, outputs_of

    ready, task = trainer.ready, trainer.recipe.task
    outputs = drain(outputs_of(trainer.model, ready.examples("test"), trainer.recipe, trainer.runtime, "test"))
    return float(next(iter(task.score(outputs, ready.splits.test, trainer._named(settings)).values())))


def with_trainer(job: Job, folder: Path) -> dict[str, Any]:
    """transformers.Trainer on the whole model, everything at its own defaults: batch 8, 3 epochs, 5e-5."""
    import numpy as np
    import torch
    import transformers as tf
    from datasets import load_from_disk

    model, processor = _load(job)
    data: Any = load_from_disk(job["data"])
    collator, columns = None, True

    def score(found: Any) -> float:
        return float(np.mean(found.predictions.argmax(-1) == found.label_ids))

    if job["kind"] == "question":
        data, score = _questions(job, data, processor)
    elif job["kind"] == "text":
        data = data.map(lambda rows: _tokens(rows, processor, job), batched=True).rename_column("label", "labels")
        collator = tf.DataCollatorWithPadding(processor)
    else:
        columns = False
        data.set_transform(lambda rows: {**_seen(rows, job, processor), "labels": rows["label"]})
    arguments = tf.TrainingArguments(
        output_dir=str(folder / "trainer"),
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=columns,
        seed=job["seed"],
    )
    trainer = tf.Trainer(model, arguments, train_dataset=data["train"], data_collator=collator)
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    return {"score": score(trainer.predict(data["test"])), "seconds": seconds}


def with_logistic_regression(job: Job, _: Path) -> dict[str, Any]:
    """scikit-learn's, on the frozen features that the model gives a row, its penalty by cross-validation."""
    import warnings

    import torch
    from datasets import load_from_disk
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, processor = _load(job)
    entered: list[Any] = []
    last = [module for module in model.eval().modules() if isinstance(module, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    data, features = load_from_disk(job["data"]), dict[str, Any]()
    begun = time.perf_counter()
    for name in ("train", "test"):
        found = []
        for start in range(0, len(data[name]), 32):
            rows = data[name][start : start + 32]
            coded = _tokens(rows, processor, job) if job["kind"] == "text" else _seen(rows, job, processor)
            inputs = processor.pad(coded, return_tensors="pt") if job["kind"] == "text" else coded
            with torch.no_grad():
                if job["kind"] == "text":  # its first token, as classifiers see it
                    found.append(model.base_model(**inputs).last_hidden_state[:, 0])
                else:
                    model(**inputs)
                    found.append(entered.pop())
        features[name] = torch.cat(found).double().numpy()
        if name == "train":
            seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=1000))
        head.fit(features["train"], data["train"]["label"])
    seconds += time.perf_counter() - begun
    return {"score": float(head.score(features["test"], data["test"]["label"])), "seconds": seconds}


def _load(job: Job) -> tuple[Any, Any]:
    """The model with a new head, as transformers loads it, and its processor."""
    import torch
    import transformers as tf
    from datasets import load_from_disk

    from hftl.tasks import find

    task = task_of(job)
    processor = task.load_processor(job["model"], False)
    torch.manual_seed(job["seed"])
    if job["kind"] == "audio":  # what is to be put behind a spectrogram only hftl loads
        names = load_from_disk(job["data"])["train"].features["label"].names
        return task.load_model(job["model"], names, processor, False, 0.1, False).model, processor
    asked = job["kind"] == "question"
    labels = 2 if asked else load_from_disk(job["data"])["train"].features["label"].num_classes
    names = {"text": "text-classification", "image": "image-classification", "question": "question-answering"}
    auto: Any = getattr(tf, find(names[job["kind"]]).auto_class)
    return auto.from_pretrained(
        job["model"], num_labels=labels, ignore_mismatched_sizes=True, dtype=torch.float32
    ), processor


def _tokens(rows: Any, tokenizer: Any, job: Job) -> dict[str, Any]:
    return dict(tokenizer(rows["text"], truncation=True, max_length=job["size"]))


def _seen(rows: Any, job: Job, processor: Any) -> dict[str, Any]:
    """Images as the processor makes them; of a recording its first seconds."""
    if job["kind"] == "image":
        images = [image.convert("RGB") for image in rows["image"]]
        return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"]}
    from hftl.audio.sounds import read_sound
    from hftl.audio.views import fitted

    rate, seconds = processor.sampling_rate, job["size"] / 1000
    waves = [fitted(read_sound(file, rate, 0.0, seconds), round(rate * seconds)) for file in rows["audio"]]
    return dict(processor(waves, sampling_rate=rate, return_tensors="pt"))


def _questions(job: Job, data: Any, tokenizer: Any) -> tuple[Any, Callable[[Any], float]]:
    """Windows padded to one length, and F1 of the best spans: every question has an answer."""
    import numpy as np

    from hftl.text.squad import compare_answers
    from hftl.text.windows import cut_windows

    length = job["size"]
    windows = {name: cut_windows(split, tokenizer, 64) for name, split in data.items()}
    padded = {
        name: split.map(lambda rows: dict(tokenizer.pad(rows, padding="max_length", max_length=length)), batched=True)
        for name, split in windows.items()
    }
    contexts, golds = data["test"]["context"], [each["text"] for each in data["test"]["answers"]]

    def score(found: Any) -> float:
        best = dict.fromkeys(range(len(contexts)), (-np.inf, ""))
        for window, start, end in zip(windows["test"], *found.predictions[:2], strict=True):
            question, begins, finishes = window["question_row"], window["begins"], window["ends"]
            for i in np.argsort(start)[-1:-21:-1].tolist():
                for j in np.argsort(end)[-1:-21:-1].tolist():
                    inside = i < len(begins) and j < len(begins) and begins[i] >= 0 and begins[j] >= 0
                    if inside and i <= j < i + 30 and start[i] + end[j] > best[question][0]:
                        best[question] = start[i] + end[j], contexts[question][begins[i] : finishes[j]]
        pairs = zip((text for _, text in best.values()), golds, strict=True)
        return float(np.mean([compare_answers(*pair)[0] for pair in pairs]))

    names = {"first": "start_positions", "last": "end_positions"}
    return {name: split.rename_columns(names) for name, split in padded.items()}, score


WAYS = {"hftl": with_hftl, "trainer": with_trainer, "logistic": with_logistic_regression}


def main() -> None:
    """Run the job of the folder given."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    result = WAYS[job["way"]](job, folder)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
