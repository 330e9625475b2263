"""A recipe: one declared experiment, as frozen dataclasses with a YAML round trip."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Generic, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from hftl.errors import HftlError, one_line
from hftl.recipe import strategies
from hftl.recipe.phase import Phase, Strict

T = TypeVar("T")


@dataclass(frozen=True)
class Store(Strict):
    """Where and how features of frozen layers are kept, so that a head trains on them without the backbone.

    Raises:
        HftlError: a value out of its range.
    """

    use: bool = True
    """Whether there is one; without, frozen layers are computed again in every epoch. Typed --store off."""
    dir: str | None = None
    """The folder of the store; unset, hftl/features in the cache folder of Hugging Face."""
    max_gb: float = 10.0
    """Most gigabytes that the folder may hold. What has not been used for longest makes room; what is larger than this
    is not stored, but computed again in every epoch."""
    views: int = 1
    """1: head-only phases see one plain view of each row. More: so many random views of it, as deeper phases have them;
    epoch e trains on view e modulo this."""

    def __post_init__(self) -> None:
        if not self.max_gb >= 0:
            raise HftlError(f"store.max_gb: {self.max_gb} is out of range; it must be at least 0")
        if self.views < 1:
            raise HftlError(f"store.views: {self.views} is out of range; it must be at least 1")


@dataclass(frozen=True)
class Recipe(Strict, Generic[T]):
    """Task, model, phases and settings of one run.

    Raises:
        HftlError: a value out of its range.
    """

    task: T
    model: str
    """A local folder of a pretrained model, or its name on the Hub."""
    phases: tuple[Phase, ...] = field(default_factory=strategies.lp_ft)
    """The stages of the transfer, in order; none at all scores the pretrained model as it is."""
    output_dir: str | None = None
    """The run folder; unset, runs/<data>-<model>-<n>."""
    seed: int = 0
    """Of the new head, the order of the data, augmentation and dropout."""
    batch_size: int | None = None
    """Rows in one optimizer step, over all micro-batches and processes; unset, by the number of rows
    (hftl/recipe/defaults.py)."""
    eval_batch_size: int = 32
    """Rows in one forward pass of an evaluation."""
    accumulation: int = 1
    """Micro-batches into which each step is cut, where memory is short; the result stays the same."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; weights are always float32. auto: bf16 where the hardware has it."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient of a step; None does not clip."""
    head_dropout: float = 0.1
    """Dropout in front of the new head, whatever the checkpoint was configured with."""
    gradient_checkpointing: bool = False
    """Compute the activations of unfrozen blocks again in the backward pass: less memory, more time, equal results."""
    compile: bool = False
    """Compile the model with torch.compile: a slow start, then faster steps."""
    ema: float | None = None
    """Evaluate and keep a moving average of the trained weights with this decay (0.999, say) instead of the last."""
    refit: bool | None = None
    """Train once more on all rows, as the best model was trained: the same phases for the same epochs, and the rows
    that validated it among those to train. Scores on validation stay those of the model before that. Unset, where the
    validation split was cut from train and at most 10,000 rows are left of it."""
    merge_lora: bool = False
    """Where the best phase trained adapters: write the whole model with them merged, not the adapters alone."""
    keep_head: bool = False
    """Keep the pretrained head; its labels must match the data's."""
    best_by: str | None = None
    """The validation score that chooses the epoch that is kept: the latest that is not worse than the best by more than
    two standard errors of their difference; of loss, the lowest. Unset, the task's first metric."""
    store: Store = field(default_factory=Store)
    """Features of frozen layers, computed once and kept on disk."""
    layer_groups: dict[str, str] = field(default_factory=dict)
    r"""Regular expression on parameter names -> layer group ("stem", "block 3", "neck", "head"), where the partition
    found by itself is not the one wanted. A group may use what was matched: "conv(\d)" -> "block \1"."""
    workers: int | None = None
    """Processes that read and transform ahead of the training; 0 reads in between. Unset: 0 on a CPU, where they would
    take the cores from the model; with a GPU one for each core but one, at most 8."""
    log_every: int = 10
    """Steps between two recorded losses."""
    trust_remote_code: bool = False
    """Allow a model's own code from the Hub to run."""

    def __post_init__(self) -> None:
        for name, low in (
            ("seed", 0),
            ("batch_size", 1),
            ("eval_batch_size", 1),
            ("accumulation", 1),
            ("workers", 0),
            ("log_every", 1),
        ):
            if (value := getattr(self, name)) is not None and value < low:
                raise HftlError(f"{name}: {value} is out of range; it must be at least {low}")
        if not 0 <= self.head_dropout < 1:
            raise HftlError(f"head_dropout: {self.head_dropout} is out of range; it must be at least 0 and below 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise HftlError(f"clip_norm: {self.clip_norm} is out of range; it must be above 0, or None not to clip")
        if self.ema is not None and not 0 < self.ema < 1:
            raise HftlError(f"ema: {self.ema} is out of range; it must be above 0 and below 1, 0.999 say")
        if self.gradient_checkpointing and any(phase.batch_norm == "update" for phase in self.phases):
            raise HftlError(
                "gradient_checkpointing: it computes each batch twice, so batch_norm: update would count it twice; "
                "choose one of them"
            )
        if self.refit and not self.phases:
            raise HftlError("refit: there are no phases to train again; leave it out")
        if self.batch_size is not None and self.accumulation > self.batch_size:
            raise HftlError(f"accumulation: {self.accumulation} micro-batches out of {self.batch_size} rows; lower it")


def task_name(task: Any) -> str:
    """What stands for a task where it is written down: the name of hftl's own, else its class as ``module:Class``.

    A subclass of one of hftl's tasks has its name, and is another.
    """
    of = type(task)
    return str(task.name) if of.__module__.startswith("hftl.tasks.") else f"{of.__module__}:{of.__qualname__}"


def to_dict(recipe: Recipe[Any]) -> dict[str, Any]:
    """The recipe as plain data; the task's name stands inside ``task``. Data objects are named by fingerprint."""
    plain = dataclasses.asdict(dataclasses.replace(recipe, task=None))
    task = {f.name: _as_plain(getattr(recipe.task, f.name)) for f in dataclasses.fields(recipe.task)}
    found: dict[str, Any] = _as_yaml({**plain, "task": {"name": task_name(recipe.task), **task}})
    return found


def to_yaml(recipe: Recipe[Any]) -> str:
    """The recipe as YAML, keys in the order of the fields."""
    return yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True)


def from_dict(plain: Any, find_task: Callable[[str], type[Any]], origin: str) -> Recipe[Any]:
    """The recipe that plain data declares; ``find_task`` gives the class of a task (see ``task_name``).

    Raises:
        HftlError: a key that is no option, a value of the wrong type, or no task; ``origin`` names the source.
    """
    task = plain.get("task") if isinstance(plain, dict) else None
    if not isinstance(task, dict) or "name" not in task:
        raise HftlError(f"{origin}: it names no task; add for example 'task: {{name: image-classification, data: …}}'")
    task_class = find_task(str(task["name"]))
    rest = {key: value for key, value in task.items() if key != "name"}
    declared = {**plain, "task": rest}
    recipe_class: Any = Recipe
    try:
        if isinstance(declared.get("phases"), str):  # a strategy's name, as on the command line
            declared["phases"] = strategies.by_name(declared["phases"])
        if declared.get("store") in (False, "off"):  # YAML reads a plain off as false
            declared["store"] = {"use": False}
        found: Recipe[Any] = TypeAdapter(recipe_class[task_class]).validate_python(declared)
    except ValidationError as error:
        raise HftlError(f"{origin}: {_first_problem(error, task_class)}") from None
    except HftlError as error:  # a value out of its range
        raise HftlError(f"{origin}: {error}") from None
    return found


def read_yaml(path: str | Path, find_task: Callable[[str], type[Any]]) -> Recipe[Any]:
    """The recipe in a YAML file.

    Raises:
        HftlError: no such file, not YAML, or not a recipe (see ``from_dict``).
    """
    try:
        plain = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise HftlError(f"{path}: {error.strerror or error}; name an existing YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HftlError(f"{path}: not YAML: {one_line(error)}") from None
    return from_dict(plain, find_task, str(path))


def describe_object(data: Any) -> str:
    """One line that stands for data handed in as an object, with the fingerprint of each split."""
    splits = data if isinstance(data, Mapping) else {"train": data}
    prints = ", ".join(f"{name} {getattr(split, '_fingerprint', '?')}" for name, split in splits.items())
    return f"<{type(data).__name__}: {prints}>"


def _as_plain(value: Any) -> Any:
    """The value of a task's option; options of their own, such as those of a spectrogram, as a dict."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value if _is_plain(value) else describe_object(value)


def _is_plain(value: Any) -> bool:
    if type(value) is dict:  # splits by name are a dict too
        return all(_is_plain(item) for item in value.values())
    return value is None or isinstance(value, str | PurePath | int | float | tuple)


def _as_yaml(value: Any) -> Any:
    """What YAML's safe dumper knows, deeply: tuples as lists, paths as text, NumPy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: _as_yaml(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_yaml(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def _first_problem(error: ValidationError, task_class: type[Any]) -> str:
    misspelt = "unexpected_keyword_argument"  # said first: a misspelt key is also the reason why one is missing
    problem = min(error.errors(), key=lambda found: found["type"] != misspelt)
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == misspelt:
        inner: dict[Any, Any] = {"phases": Phase, "task": task_class, "store": Store}
        owner = Recipe if len(problem["loc"]) == 1 else inner[problem["loc"][0]]
        if owner is task_class and len(problem["loc"]) > 2:  # options of a task that have options of their own
            owner = next(f.default_factory for f in dataclasses.fields(owner) if f.name == problem["loc"][1])
        names = [f.name for f in dataclasses.fields(owner)]
        near = difflib.get_close_matches(str(problem["loc"][-1]), names, n=1)
        return f"'{place}' is no option; " + (f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}")
    if problem["type"] == "missing":
        return f"'{place}' is missing; add it"
    return f"'{place}': {problem['msg']} (it is {problem['input']!r})"
