"""Find, replace and initialise the head; say what was loaded and what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hftl import hub
from hftl.errors import HftlError, one_line
from hftl.model import adapters
from hftl.model.layers import LayerGroups, find_backbone, head_parameters
from hftl.quiet import quiet_transformers

DROPOUT_SETTINGS = (
    "classifier_dropout",
    "classifier_dropout_prob",
    "cls_dropout",
    "dropout_rate",
    "pooler_dropout",
    "qa_dropout",
    "seq_classif_dropout",
)
"""Names under which configurations keep the dropout in front of a classifier (dropout_rate: EfficientNet)."""
UNDECLARED_SETTINGS = {"deberta": "cls_dropout", "deberta-v2": "cls_dropout"}
"""The setting that a family's classifiers read although its configuration class does not declare it."""


MOST_MOMENTUM, USUAL_MOMENTUM = 0.5, 0.1
"""Of BatchNorm's statistics: more than the first is a mistake, and the second is torch's default."""


@dataclass(frozen=True)
class Loaded:
    """A pretrained model with its head for the task, and what came from where.

    ``new`` and ``dropped`` are names of tensors: initialised at random here, and in the checkpoint but without use.
    ``notes`` are the decisions about it that a person wants to know.
    """

    model: Any
    tensors: int
    parameters: int
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...] = ()
    converted: bool = False
    """Whether the checkpoint is of another kind than the model, so that adapters over that would not load."""
    far: bool = False
    """Whether the checkpoint was trained on another kind of data than these: on images, and these are sounds."""
    faster: float = 1.0
    """How many times the usual learning rate its blocks learn best at."""


def config_of(auto_class: str, source: str, trust_remote_code: bool) -> Any:
    """The checkpoint's configuration, if it is of a kind that ``auto_class`` can load.

    Raises:
        HftlError: no such folder or Hub model, or one of another kind.
    """
    local = Path(source).is_dir()
    if not local and source.startswith((".", "/", "~")):
        raise HftlError(f"--model {source}: no such folder; name a folder written by save_pretrained, or a Hub model")
    if not local and not hub.worth_asking("models", source):
        raise HftlError(
            f"--model {source}: no such local folder, and no connection to the Hub; check the path, or connect"
        )
    try:
        with quiet_transformers():
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise HftlError(
            f"--model {source}: it is neither a folder with a config.json nor a model that the Hub gave "
            f"({one_line(error)})"
        ) from None
    kinds = getattr(transformers, auto_class)._model_mapping
    if type(config) not in kinds and not hasattr(config, "auto_map"):
        raise HftlError(
            f"--model {source}: a {config.model_type!r} model does not fit this task; "
            f"name one that {auto_class} can load"
        )
    return config


def load(
    auto_class: str, source: str, labels: Sequence[str], keep_head: bool, head_dropout: float, trust_remote_code: bool
) -> Loaded:
    """The checkpoint as the model of ``auto_class`` (``AutoModelFor…``) in float32, its head for ``labels``.

    Random initialisation draws from torch's global generator: seed it before.

    Raises:
        HftlError: no such checkpoint, one of another kind, or one without the head that is to be kept.
    """
    config, base = config_of(auto_class, source, trust_remote_code), adapters.base_of(source)
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    if hasattr(config, "label_names"):  # those of timm's models, which would go over id2label
        config.label_names = list(labels)
    if not keep_head:
        config.problem_type = None
    model, info = _from_pretrained(auto_class, base or source, config, trust_remote_code)
    if base is not None:
        model = adapters.restore(source, model)
        kept = adapters.kept_whole(source)
        info["missing_keys"] = set(info["missing_keys"]) - kept
        info["mismatched_keys"] = {entry for entry in info["mismatched_keys"] if entry[0] not in kept}
    return with_head(model, info, source, keep_head, head_dropout)


def with_head(model: Any, info: Mapping[str, Any], source: str, keep_head: bool, head_dropout: float) -> Loaded:
    """The model with its head as it came from the checkpoint, or with a new one; and what came from where.

    Args:
        model: with a head of the wanted size.
        info: what ``from_pretrained`` said of its loading.
        source: the checkpoint.
        keep_head: whether the head has to come from there.
        head_dropout: in front of a new one.

    Raises:
        HftlError: the head that is to be kept is not there.
    """
    _correct_momentum(model)
    mismatched = {str(entry[0]) for entry in info["mismatched_keys"]}
    new = set(info["missing_keys"]) | mismatched
    head = head_parameters(model)
    unkept = [name for name in head if name in new]
    replaced: set[str] = set()
    if not keep_head:
        replaced = _initialise_head(model, set(head) - new)
        set_head_dropout(model, head_dropout)
        new |= replaced
    elif unkept:
        raise HftlError(
            f"--model {source}: it has no head for {model.config.num_labels} labels that could be kept "
            f"({_some(unkept)} would be random); train a new one: leave out --keep-head, and choose --phases with at "
            "least one phase"
        )
    own = dict(model.named_parameters())
    return Loaded(
        model=model,
        tensors=len(set(own) - new),
        parameters=sum(tensor.numel() for name, tensor in own.items() if name not in new),
        new=tuple(name for name in model.state_dict() if name in new),
        dropped=tuple(sorted(set(info["unexpected_keys"]) | mismatched | replaced)),
    )


def skeleton(source: str, task_classes: Sequence[Any], trust_remote_code: bool) -> Any:
    """The model without its weights (on the meta device), with its own head if a task has such, else the first's.

    Raises:
        HftlError: no such checkpoint, or none of the tasks fits it.
    """
    problems, found = [], []
    for task_class in task_classes:
        task_class.know_models()
        try:
            config = config_of(task_class.auto_class, source, trust_remote_code)
        except HftlError as error:
            problems.append(error)
            continue
        with torch.device("meta"):
            auto = getattr(transformers, task_class.auto_class)
            model = auto.from_config(config, trust_remote_code=trust_remote_code)
        if type(model).__name__ in (config.architectures or ()):
            return model
        found.append(model)
    if not found:
        raise problems[0]
    return found[0]


def own_labels(auto_class: str, source: str, label_map: Mapping[str, str], trust_remote_code: bool) -> tuple[str, ...]:
    """The labels of the checkpoint's own head in its order, renamed by ``label_map`` (model's name -> data's name).

    Raises:
        HftlError: the map names a label that the model has not, or gives two labels one name.
    """
    config = config_of(auto_class, source, trust_remote_code)
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    for label in label_map:
        if label not in names:
            raise HftlError(f"--task.label-map: {source} has no label {label!r}; it has {_some(names)}")
    renamed = tuple(label_map.get(name, name) for name in names)
    twice = next(
        (name for index, name in enumerate(renamed) if name in renamed[:index] and name in label_map.values()), None
    )
    if twice is not None:
        raise HftlError(f"--task.label-map: two labels of {source} would be {twice!r}; map one model label to each")
    return renamed


def set_head_dropout(model: nn.Module, p: float) -> None:
    """Set every dropout outside the backbone, and the setting it comes from, to ``p``.

    Configured values can be absurd for a new head (0.8 in MobileNetV2's checkpoint, 0.999 in YAMNet's).
    """
    backbone, module_of_backbone = find_backbone(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and not name.startswith(f"{backbone}."):
            module.p = p
    configs: list[Any] = [model.config, getattr(module_of_backbone, "config", None)]
    for config in filter(None, configs):  # those of a model inside another one differ
        for setting in DROPOUT_SETTINGS:
            if hasattr(config, setting) or setting == UNDECLARED_SETTINGS.get(config.model_type):
                setattr(config, setting, p)


def _from_pretrained(auto_class: str, source: str, config: Any, trust_remote_code: bool) -> tuple[Any, dict[str, Any]]:
    try:
        with quiet_transformers():  # its report of new and dropped tensors is ours to give, in one table
            model, info = getattr(transformers, auto_class).from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                use_safetensors=True,  # never unpickle what somebody else wrote
                trust_remote_code=trust_remote_code,
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise HftlError(f"--model {source}: its weights do not load: {one_line(error)}") from None
    return model, info


def _initialise_head(model: Any, head: set[str]) -> set[str]:
    """Give head parameters that came from the checkpoint a fresh start too; the names of those."""
    for path, module in model.named_modules():
        own = {f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)}
        if own & head:
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # from_pretrained marks what it loaded
            model._init_weights(module)
    return head


def _correct_momentum(model: nn.Module) -> None:
    """Let running statistics of BatchNorm move as slowly as is usual in torch, where they would be the last batch's.

    MobileNetV1 and V2 (0.9997, 0.997) and EfficientNet (0.99 in its configuration) have TensorFlow's decay where torch
    expects one minus that. It counts only where statistics are updated.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.momentum is not None and module.momentum > MOST_MOMENTUM:
            module.momentum = USUAL_MOMENTUM


def check_backbone(loaded: Loaded, groups: LayerGroups, source: str) -> None:
    """Parameters below the neck, and running statistics, have to come from the checkpoint.

    Raises:
        HftlError: some do not; they are named.
    """
    inner = [name for group in groups.names[:-2] for name in groups.parameters[group]]
    inner += [name for name in loaded.model.state_dict() if name.endswith(("running_mean", "running_var"))]
    missing = [name for name in inner if name in loaded.new]
    if missing:
        raise HftlError(
            f"--model {source}: the checkpoint has no weights for {len(missing)} of {len(inner)} backbone tensors "
            f"({_some(missing)}); it does not fit its config.json"
        )


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} … ({len(names)} in all)"
