"""The model card of a run: what it is, how good, how it was trained, how to use it and how to do it again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hftl import tasks
from hftl.errors import HftlError
from hftl.records import BY_LABEL, HeadSolved
from hftl.report.curves import of_kind, read_history
from hftl.run_folder import RunFolder, write_text
from hftl.wording import (
    few_text,
    head_text,
    length_text,
    one_line,
    phase_text,
    place_text,
    rate_text,
    score_names,
    score_text,
    seconds_text,
    trained_text,
)

Plain = dict[str, Any]

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
EXAMPLES = {
    "audio-classification": '"recording.wav"',
    "image-classification": '"photo.jpg"',
    "text-classification": '"a text of any length", truncation=True',
}
"""What a pipeline of the task is called with."""
PAIR_EXAMPLE = '{"text": "the first text", "text_pair": "the second"}, truncation=True'
"""The same, of a model for pairs of texts."""
PROCESSORS = {"audio-classification": "feature_extractor", "image-classification": "image_processor"}
"""What a pipeline of the task calls that which prepares its inputs; a tokenizer elsewhere."""
SPLITS = ("validation", "test")
MANY_LABELS = 100
"""Labels beyond these are only counted."""


def write(folder: Path) -> Path:
    """Write ``README.md`` from the recipe, metrics, environment and history of a run folder.

    Returns:
        The path of the card.

    Raises:
        HftlError: one of the files is missing or not what a run writes.
    """
    run = RunFolder(folder)
    recipe, metrics, environment = (_read(path) for path in (run.recipe, run.metrics, run.environment))
    history = read_history(folder)
    name = folder.resolve().name
    adapter = run.result == run.adapter
    front = yaml.safe_dump(front_matter(recipe, metrics, name, adapter), sort_keys=False, allow_unicode=True)
    sections = [
        _what(name, recipe, metrics, history),
        _scores(recipe, metrics, _thresholds(metrics, history)),
        _training(recipe, metrics, history),
        _use(recipe, _thresholds(metrics, history) is not None, adapter, _has_own_code(run)),
        _environment(environment),
        _again(recipe),
    ]
    path = folder / "README.md"
    write_text(path, f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n")
    return path


def front_matter(recipe: Plain, metrics: Plain, name: str, adapter: bool = False) -> Plain:
    """What the Hub reads of a card; ``base_model`` only where the model has a Hub name.

    Args:
        recipe: ``recipe.yaml``.
        metrics: ``metrics.json``.
        name: Of the model, in the Hub's table of results.
        adapter: Whether it is an adapter over ``base_model``.
    """
    task, data = _task(recipe).name, _data_name(recipe)
    results = [
        {
            "task": {"type": task},
            "dataset": {"name": data, "type": data, "split": split},
            "metrics": [
                {"type": key, "value": round(metrics[split][key], 6)}
                for key in score_names([metrics[split]])
                if math.isfinite(metrics[split][key])
            ],
        }
        for split in SPLITS
        if split in metrics
    ]
    return {
        "library_name": "peft" if adapter else "transformers",
        **({"pipeline_tag": task} if task in tasks.names() else {}),
        **({"base_model": recipe["model"]} if is_hub_name(recipe["model"]) else {}),
        "tags": ["hftl", "transfer-learning"],
        "model-index": [{"name": name, "results": results}],
    }


def is_hub_name(model: str) -> bool:
    """Whether this names a model on the Hub: it looks like one, and no such file or folder is here."""
    return HUB_NAME.fullmatch(model) is not None and not Path(model).expanduser().exists()


def _read(path: Path) -> Plain:
    """A YAML or JSON file that holds a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise HftlError(f"{path}: {error.strerror or error}; name the folder of a finished run") from None
    except (ValueError, yaml.YAMLError) as error:
        raise HftlError(f"{path}: not readable: {one_line(str(error))}; run again") from None
    if not isinstance(found, dict):
        raise HftlError(f"{path}: not what a run writes; run again")
    return found


def _data_name(recipe: Plain) -> str:
    """The data as named; of a path the last part."""
    data = str(recipe["task"].get("data"))
    return "data given in Python" if data.startswith("<") else _public(data)


def _public(name: str) -> str:
    """A Hub name, or the last part of a path: the rest of it is nobody else's business."""
    return name if is_hub_name(name) else Path(name).name or name


# The sections.


def _what(name: str, recipe: Plain, metrics: Plain, history: Sequence[Plain]) -> str:
    model = recipe["model"]
    base = f"[{model}](https://huggingface.co/{model})" if is_hub_name(model) else _code(_public(model))
    made = "The pretrained model" if not metrics["phases"] else "Made by transfer learning from"
    lines = [f"# {name}", "", f"{made} {base}, for {_task(recipe).name} on {_code(_data_name(recipe))}."]
    for started in of_kind(history, "RunStarted")[-1:]:
        labels, rows = started["labels"], started["rows"]
        sizes = ", ".join(f"{count:,} {split}" for split, count in rows.items())
        lines += ["", f"- **Rows**: {sizes}"]
        if labels:
            lines += [f"- **Labels** ({len(labels)}): {_text(few_text(labels, MANY_LABELS))}"]
        lines += [f"- {_text(note)}" for note in started["notes"]]
    return "\n".join(lines)


def _thresholds(metrics: Plain, history: Sequence[Plain]) -> dict[str, float] | None:
    """The saved model's threshold of each label, by name; None where each row has one label."""
    best = (metrics["best"]["phase"], metrics["best"]["epoch"], "validation")
    for record in of_kind(history, "Evaluated"):
        if best == (record["phase"], record["epoch"], record["split"]) and "thresholds" in record["settings"]:
            (started,) = of_kind(history, "RunStarted")[-1:]
            return dict(zip(started["labels"], record["settings"]["thresholds"], strict=True))
    return None


def _scores(recipe: Plain, metrics: Plain, thresholds: Mapping[str, float] | None) -> str:
    rows: list[tuple[str, str, Mapping[str, float]]] = [
        ("majority", "validation", metrics["majority"]),
        *((_phase(phase), "validation", phase["scores"]) for phase in metrics["phases"] if not phase["refit"]),
        *(
            ("**chosen model**" if metrics["best"]["refit"] and split == "validation" else "**saved model**", split, of)
            for split in SPLITS
            if (of := metrics.get(split))
        ),
    ]
    names = score_names(scores for _, _, scores in rows)
    table = _table(
        ["", "split", *names],
        [
            (name, split, *(score_text(scores[key]) if key in scores else "" for key in names))
            for name, split, scores in rows
        ],
    )
    best = metrics["best"]
    saved = (
        "The saved model is the pretrained one, as it was."
        if best["phase"] is None
        else f"The saved model is that of {place_text(best['phase'], best['epoch'])} (both count from 0), "
        f"chosen on the validation split{_sure(metrics)}."
    )
    if best["refit"]:
        saved += (
            " It was then trained once more from the checkpoint, in the same way, on all rows, those of the validation "
            "split included. So its validation scores are those of the chosen model before that: no row that the saved "
            "model was trained on is scored."
        )
    majority = f"*Majority* {_task(recipe).majority_is}."
    if thresholds is not None:
        chosen = few_text([f"{label} {score_text(value)}" for label, value in thresholds.items()], MANY_LABELS)
        majority = (
            "*Majority* always answers with the commonest training labels.\n\nA row may have any number of labels "
            "(multi-label): each is given where its probability reaches its threshold, chosen on the validation split "
            f"for the highest F1 and saved in `model/config.json`: {_text(chosen)}."
        )
        found = {name: value for name, value in metrics["validation"].items() if name.startswith(BY_LABEL)}
        if found:
            each = [
                f"{name.removeprefix(BY_LABEL)} {score_text(found[name])}"
                for name in sorted(found, key=lambda name: found[name])
            ]
            majority += f" Average precision on validation, lowest first: {_text(few_text(each, MANY_LABELS))}."
    return f"## Scores\n\n{table}\n\n{saved} {majority}\n\n![Losses and scores over the run](curves.png)"


def _training(recipe: Plain, metrics: Plain, history: Sequence[Plain]) -> str:
    if not metrics["phases"]:
        return "## Training\n\nNone: the pretrained model was scored as it is."
    started = {record["phase"]: record for record in of_kind(history, "PhaseStarted")}
    rows = []
    for ended in metrics["phases"]:
        begun = started[ended["phase"]]
        parameters = sum(group["parameters"] for group in begun["groups"])
        rows.append(
            (
                _phase(ended),
                trained_text(ended["trainable"], parameters),
                length_text(begun["solver"], begun["epochs"], begun["steps_per_epoch"]),
                "solved" if ended["best_epoch"] is None else str(ended["best_epoch"]),
                rate_text(begun["lr"]) if begun["epochs"] else "",
                seconds_text(ended["seconds"]),
            )
        )
    table = _table(["", "trained", "epochs, at most", "kept epoch", "peak learning rate", "time"], rows)
    settings = f"Batch size {recipe['batch_size']}, seed {recipe['seed']}, AdamW."
    frozen = "What a phase does not train is frozen: bit-equal before and after it."
    for solved in of_kind(history, "HeadSolved"):
        plain = HeadSolved(**{name: value for name, value in solved.items() if name != "record"})
        settings += f" Phase {plain.phase}: {head_text(plain)}."
    return f"## Training\n\n{table}\n\n{settings} {frozen} `recipe.yaml` holds every setting."


def _has_own_code(run: RunFolder) -> bool:
    """Whether the saved model is of a class that transformers has not: its code lies beside the weights."""
    return run.result is not None and "auto_map" in _read(run.result / "config.json")


def _use(recipe: Plain, multi_label: bool, adapter: bool, own_code: bool) -> str:
    task = _task(recipe).name
    if task not in EXAMPLES and task != "question-answering":
        return _use_of_own(recipe)
    if task == "question-answering":
        return _use_for_questions(recipe, adapter)
    trust = ", trust_remote_code=True" if own_code else ""
    load = f"""from transformers import pipeline

answer = pipeline("{task}", model="model"{trust})  # the folder beside this card"""
    if adapter:
        loader, loaded = "", '"adapter"'
        if task == "audio-classification":  # by its name alone a pipeline takes none beside a model that is loaded
            loader, loaded = "AutoFeatureExtractor, ", 'AutoFeatureExtractor.from_pretrained("adapter")'
        load = f"""from peft import PeftModel
from transformers import AutoConfig, {loader}{_task(recipe).auto_class}, pipeline

config = AutoConfig.from_pretrained("adapter")  # the folder beside this card
base = {_task(recipe).auto_class}.from_pretrained(
    "{_public(recipe["model"])}", config=config, ignore_mismatched_sizes=True, dtype="float32"
)  # the checkpoint, with a head for these labels
model = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
answer = pipeline("{task}", model=model, {PROCESSORS.get(task, "tokenizer")}={loaded})"""
    given = PAIR_EXAMPLE if recipe["task"].get("pairs") else EXAMPLES.get(task, "...")
    cuts = "  # cuts the end of long texts; trained on their beginning and end, as hftl predict cuts them"
    comment = cuts if recipe["task"].get("truncation") == "head+tail" else ""
    use = f"print(answer({given})){comment}"
    if multi_label:
        use = f"""config = answer.model.config
thresholds = {{config.id2label[index]: value for index, value in enumerate(config.thresholds)}}
scores = answer({given}, top_k=len(thresholds)){comment}
print([each["label"] for each in scores if each["score"] >= thresholds[each["label"]]])"""
    more = _about_recordings(recipe["task"]["seconds"], own_code) if task == "audio-classification" else ""
    return f"""## Use

```python
{load}
{use}
```{more}"""


def _use_of_own(recipe: Plain) -> str:
    """Of a task that no pipeline knows."""
    return f"""## Use

transformers has no pipeline for this task. With hftl, and {_code(recipe["task"]["name"])} where it can be imported:

```python
from hftl import Predictor

print(Predictor(".")([...]))  # this folder
```"""


def _task(recipe: Plain) -> type[Any]:
    """The task's class."""
    return tasks.find(recipe["task"]["name"])


def _about_recordings(seconds: float, own_code: bool) -> str:
    heard = f"""

A pipeline reads files with ffmpeg; without it, hand in `{{"raw": samples, "sampling_rate": rate}}`. It hears a
recording as one, and may answer otherwise than `hftl predict`, which hears it as in training: in windows of
{seconds:g} s, with silence after what is shorter."""
    own = """

The model is an image classifier behind a log-mel spectrogram. transformers has no such class: it is in
`model/spectrogram.py`, so load it with `trust_remote_code=True`, or import `hftl.audio.spectrogram` and
call `register()`.
It needs torchaudio."""
    return heard + (own if own_code else "")


def _use_for_questions(recipe: Plain, adapter: bool) -> str:
    kind, folder = _task(recipe).auto_class, "adapter" if adapter else "model"
    load = f'model = {kind}.from_pretrained("model")  # the folder beside this card'
    if adapter:
        load = f"""from peft import PeftModel

base = {kind}.from_pretrained("{_public(recipe["model"])}", dtype="float32")
model = PeftModel.from_pretrained(base, "adapter").merge_and_unload()  # the folder beside this card"""
    return f"""## Use

transformers has no pipeline for questions any more. With hftl, windows and the length of answers are as in the scores
above, and so is when no answer is given: where its score exceeds that of the best span by more than
`no_answer_threshold` in `config.json` (null: never).

```python
from hftl import Predictor

print(Predictor(".")(question="Who?", context="A text of any length."))  # this folder
```

Without it, for a text that fits into one window:

```python
from transformers import AutoTokenizer, {kind}

tokenizer = AutoTokenizer.from_pretrained("{folder}")
{load}
inputs = tokenizer("Who?", "A short text.", truncation="only_second", return_tensors="pt")
outputs = model(**inputs)
first, last = outputs.start_logits.argmax(), outputs.end_logits.argmax()
print(tokenizer.decode(inputs.input_ids[0, first : last + 1]))
```"""


def _environment(environment: Plain) -> str:
    # The command names the user's own paths; how to do it again stands below.
    rows = [(key, _code(str(value))) for key, value in environment.items() if key != "command"]
    return "## Environment\n\n" + _table(["", ""], rows)


def _again(recipe: Plain) -> str:
    lines = [
        "## Do it again",
        "",
        "```",
        "hftl fit recipe.yaml --output-dir again",
        "```",
        "",
        "Paths in `recipe.yaml` are as seen from the folder where the run was started.",
    ]
    if str(recipe["task"].get("data")).startswith("<"):
        lines += ["The data were given in Python: name a file, a folder or a Hub name with `--task.data`."]
    return "\n".join(lines)


# The pieces they are made of.


def _phase(ended: Plain) -> str:
    return f"phase {ended['phase']}: {phase_text(str(ended['unfreeze']), ended['train'], ended['refit'])}"


def _sure(metrics: Plain) -> str:
    error = metrics["best"].get("error")
    return "" if error is None else f", where its first score is sure to ± {score_text(error)} (one standard error)"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first two columns to the left, the others to the right."""
    rules = [":--" if index < 2 else "--:" for index in range(len(headers))]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in [headers, rules, *rows])


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def _text(text: str) -> str:
    """A user's words in prose: what Markdown would read as more than words is escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one_line(text))


def _code(text: str) -> str:
    return f"`{one_line(text).replace('`', chr(39))}`"
