"""A spectrogram CNN: any image classifier of transformers that looks at the log-mel spectrogram of a waveform.

This file imports nothing of hftl: transformers copies it beside the weights, so that the model loads with
``trust_remote_code`` where hftl is not installed.

Sources: Hershey et al. 2017 (CNNs of images for audio, and the front end that YAMNet has and the defaults are); Park et
al. 2019 (SpecAugment).
"""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from torchaudio import functional as audio
from torchaudio import transforms
from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForImageClassification
from transformers import initialization as init
from transformers.utils import cached_file

MADE_INTO_TENSORS = ("sampling_rate", "n_fft", "win_length", "n_mels", "f_min", "f_max")
"""Settings that the window and the filterbank are made from."""


FRONT_END: dict[str, Any] = {
    "n_fft": 1024,
    "win_length": 1024,
    "n_mels": 128,
    "f_min": 50.0,
    "f_max": None,
    "power": 2,
    "log_offset": 1e-6,
    "normalisation": "row",
}
"""Of an image model that brings none: finer than YAMNet's, in the range of values that it saw in images."""


class SpectrogramConfig(transformers.PretrainedConfig):  # type: ignore[misc]  # transformers has no types
    """What the image classifier inside is, and how a waveform becomes its image.

    Labels, ``problem_type`` and ``num_channels`` are those given here; the model hands them on to ``image_config``.

    Raises:
        ValueError: settings that do not go together; the one line names them.
    """

    model_type = "spectrogram_cnn"

    image_config: transformers.PretrainedConfig | dict[str, Any] | None = None
    """Of an image classifier; a dict needs its ``model_type``."""
    sampling_rate: int = 16_000
    """Of the waveforms, in Hz."""
    n_fft: int = 512
    win_length: int = 400
    """Samples in a frame; it is filled up with zeros to ``n_fft``."""
    hop_length: int = 160
    """Samples from the start of one frame to the start of the next; only whole frames count."""
    n_mels: int = 64
    f_min: float = 125.0
    f_max: float | None = 7500.0
    """In Hz; None: half the sampling rate."""
    power: int = 1
    """1: the mel bands sum magnitudes; 2: powers."""
    log: str = "offset"
    """``offset``: log(mel + log_offset); ``decibel``: no lower than ``top_db`` under the row's loudest point."""
    log_offset: float = 0.001
    top_db: float | None = 80.0
    normalisation: str = "none"
    """Of the log-mel: ``none``; ``row``: each row to mean 0 and standard deviation 1; ``fixed``: by mean and std."""
    mean: float = 0.0
    std: float = 1.0
    transposed: bool = False
    """Whether the image is (frames, mels), as YAMNet takes it, and not (mels, frames)."""
    image_size: int | list[int] | tuple[int, int] | None = None
    """Height and width in pixels to which images are resized; None: one for each point. ViT takes one size only."""
    num_channels: int = 1
    """3: the same image three times."""
    window_seconds: float = 0.975
    """What the model is meant to hear at once; shorter rows are filled up with silence, longer ones heard whole."""
    time_masks: int = 0
    """SpecAugment, where the front end is in train mode: how many stretches of frames are masked in each row."""
    time_mask_width: int = 0
    """At most so many frames each."""
    freq_masks: int = 0
    freq_mask_width: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.image_config, dict):
            self.image_config = _image_config(self.image_config)
        if self.image_size is not None:
            self.image_size = [self.image_size] * 2 if isinstance(self.image_size, int) else list(self.image_size)
        super().__post_init__(**kwargs)
        if self.id2label is not None:
            self.label2id = {label: index for index, label in self.id2label.items()}
        self._check()

    @property
    def window_samples(self) -> int:
        """How many samples ``window_seconds`` are."""
        return round(self.window_seconds * self.sampling_rate)

    @property
    def highest(self) -> float:
        """``f_max``, or what stands for it."""
        return self.sampling_rate / 2 if self.f_max is None else self.f_max

    def _check(self) -> None:
        for setting, choices in (
            ("num_channels", (1, 3)),
            ("power", (1, 2)),
            ("log", ("offset", "decibel")),
            ("normalisation", ("none", "row", "fixed")),
        ):
            if (value := getattr(self, setting)) not in choices:
                raise ValueError(f"{setting}: {value!r} is none of {', '.join(map(str, choices))}")
        counts = {"sampling_rate": self.sampling_rate, "n_mels": self.n_mels}
        if isinstance(self.image_size, list):
            counts["image_size"] = min(self.image_size)
        for setting, count in counts.items():
            if count < 1:
                raise ValueError(f"{setting}: {count} is too few; use at least 1")
        if not 0 < self.win_length <= self.n_fft:
            raise ValueError(f"win_length: {self.win_length} does not fit into n_fft, {self.n_fft}; raise n_fft")
        if self.hop_length < 1:
            raise ValueError(f"hop_length: {self.hop_length} is no step; use at least 1 sample")
        if not 0 <= self.f_min < self.highest <= self.sampling_rate / 2:
            raise ValueError(
                f"f_min, f_max: {self.f_min} to {self.highest} Hz is no range within the {self.sampling_rate / 2} Hz "
                f"that {self.sampling_rate} samples a second hold"
            )
        if self.log == "offset" and not 0 < self.log_offset < math.inf:
            raise ValueError(f"log_offset: {self.log_offset} gives no logarithm of silence; use a small number above 0")
        if self.normalisation == "fixed" and not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(
                f"mean, std: {self.mean} and {self.std} are no mean and standard deviation; use numbers, std above 0"
            )
        if self.normalisation != "fixed" and (self.mean, self.std) != (0, 1):
            raise ValueError(f"mean, std: normalisation {self.normalisation!r} has no use for them; make it 'fixed'")
        for setting in ("time_mask", "freq_mask"):
            masks, width = getattr(self, f"{setting}s"), getattr(self, f"{setting}_width")
            if min(masks, width) < 0 or (masks > 0) != (width > 0):
                raise ValueError(
                    f"{setting}s, {setting}_width: {masks} masks of at most {width} mask nothing; use numbers above 0"
                )
        if self.freq_mask_width > self.n_mels:
            raise ValueError(f"freq_mask_width: {self.freq_mask_width} is more than the {self.n_mels} bands; use fewer")
        if self.window_samples < self.win_length:
            raise ValueError(
                f"window_seconds: {self.window_seconds} is shorter than one frame of {self.win_length} samples"
            )


class LogMel(nn.Module):
    """The front end: waveforms of shape (rows, samples) to images of shape (rows, channels, height, width), float32.

    Frame ``t`` begins at sample ``t * hop_length``; nothing is centred, as in YAMNet. ``window``, of shape
    (win_length,), and ``filterbank``, of shape (mels, n_fft / 2 + 1), are saved with the model; where no checkpoint has
    any they are a periodic Hann window and torchaudio's filters (HTK's mel scale, triangles of height 1).
    """

    window: torch.Tensor
    filterbank: torch.Tensor

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.n_fft // 2 + 1
        self.register_buffer("window", torch.empty(config.win_length, dtype=torch.float32))
        self.register_buffer("filterbank", torch.empty(config.n_mels, bins, dtype=torch.float32))
        self.masks = transforms.SpecAugment(
            config.time_masks, config.time_mask_width, config.freq_masks, config.freq_mask_width, zero_masking=True
        )

    def initialise(self) -> None:
        """Set window and filterbank from the configuration, where no checkpoint has set them."""
        config = self.config
        with torch.device("cpu"):
            bank = audio.melscale_fbanks(
                self.filterbank.shape[1],
                config.f_min,
                config.highest,
                config.n_mels,
                config.sampling_rate,
            )
            init.copy_(self.window, torch.hann_window(config.win_length, dtype=torch.float32))
            init.copy_(self.filterbank, bank.T.float())

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """The images.

        Raises:
            ValueError: not of shape (rows, samples).
        """
        if waveform.ndim != 2:
            raise ValueError(
                f"input_values: shape {tuple(waveform.shape)}; the model takes mono waveforms of shape (rows, samples)"
            )
        config = self.config
        # Of a spectrogram in bfloat16 the quiet parts are rounding noise.
        with torch.autocast(waveform.device.type, enabled=False):
            mel = self.log(self.filterbank.float() @ self.magnitudes(waveform.float()))
            if config.normalisation == "row":
                deviation, mean = torch.std_mean(mel, dim=(1, 2), keepdim=True)
                mel = (mel - mean) / deviation.clamp(min=1e-5)
            elif config.normalisation == "fixed":
                mel = (mel - config.mean) / config.std
            if self.training and (config.time_masks or config.freq_masks):
                mean = mel.mean(dim=(1, 2), keepdim=True)  # of the row: it must not depend on those beside it
                mel = self.masks(mel - mean) + mean
            image = (mel.mT if config.transposed else mel).unsqueeze(1)
            if config.image_size is not None:
                image = functional.interpolate(image, size=config.image_size, mode="bilinear", antialias=True)
            return image.expand(-1, config.num_channels, -1, -1)

    def magnitudes(self, waveform: torch.Tensor) -> torch.Tensor:
        """To ``config.power``, shape (rows, n_fft / 2 + 1, frames)."""
        config = self.config
        silence = max(0, config.window_samples - waveform.shape[1])
        # torch puts a short window into the middle of n_fft samples; with so much silence around the row the frames are
        # those of the window alone. That they lie later within n_fft changes phases only.
        before = (config.n_fft - config.win_length) // 2
        after = config.n_fft - config.win_length - before
        found: torch.Tensor = audio.spectrogram(
            functional.pad(waveform, (before, silence + after)),
            pad=0,
            window=self.window.float(),
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            win_length=config.win_length,
            power=config.power,
            normalized=False,
            center=False,
        )
        return found

    def log(self, mel: torch.Tensor) -> torch.Tensor:
        """Shape (rows, mels, frames), as ``mel`` is."""
        if self.config.log == "offset":
            return torch.log(mel + self.config.log_offset)
        # With an axis of channels, for top_db would be counted from the loudest point of all rows without.
        multiplier = 20.0 / self.config.power
        found: torch.Tensor = audio.amplitude_to_DB(mel.unsqueeze(1), multiplier, 1e-10, 0.0, self.config.top_db)
        return found.squeeze(1)


class SpectrogramForAudioClassification(transformers.PreTrainedModel):  # type: ignore[misc]  # transformers has no types
    """An image classifier (``network``) behind a front end without parameters (``front_end``).

    ``base_model`` is that of the classifier inside.

    Raises:
        ValueError: a configuration without an image classifier, or with one that cannot take that many channels.
    """

    config_class = SpectrogramConfig
    main_input_name = "input_values"
    input_modalities = ("audio",)

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__(config)
        self.front_end = LogMel(config)
        # In the dtype that this model is loaded in, not in the one that the image model was saved in.
        self.network = AutoModelForImageClassification.from_config(_inner(config), dtype=torch.get_default_dtype())
        config.image_config = self.network.config
        self.supports_gradient_checkpointing = self.network.supports_gradient_checkpointing
        self.post_init()

    @property
    def base_model(self) -> nn.Module:
        """The pretrained part: the image classifier without its head."""
        base: nn.Module = self.network.base_model
        return base

    def forward(self, input_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """What the image classifier returns, ``logits`` of shape (rows, labels) in it.

        Args:
            input_values: mono waveforms at ``config.sampling_rate``, shape (rows, samples).
            labels: the classifier then returns its loss, too. Named, for ``transformers.Trainer`` goes by the names.
            kwargs: go to the image classifier (``output_hidden_states`` …).
        """
        known = {} if labels is None else {"labels": labels}
        images = self.front_end(input_values).to(self.network.dtype)
        return self.network(pixel_values=images, **known, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LogMel):
            module.initialise()
        elif module is not self:
            self.network._init_weights(module)


def from_image_checkpoint(
    source: str | Path, **settings: Any
) -> tuple[SpectrogramForAudioClassification, dict[str, Any]]:
    """A spectrogram CNN with the weights of an image classifier, in float32, and what came from where.

    Where the checkpoint is of images of three channels and ``num_channels`` is 1 (as it is by default), the weights
    that take the channels are summed over them: one channel then gives what the same image three times gave. A
    checkpoint with a ``frontend_config.json`` and a ``frontend.safetensors`` brings its own front end, with tensors.
    Weights that the checkpoint has not are drawn from torch's global generator: seed it before.

    Args:
        source: a folder written by ``save_pretrained``, or a Hub model.
        settings: of ``SpectrogramConfig``; without ``num_labels`` or ``id2label`` the checkpoint's head is kept.

    Returns:
        The model in eval mode, and the loading info as of ``from_pretrained``: ``missing_keys`` and ``mismatched_keys``
        by their names in this model, ``unexpected_keys`` by their names in the checkpoint.

    Raises:
        ValueError: no image classifier, or settings that do not go with it; the one line names them.
        OSError: no such checkpoint.
    """
    config, tensors = settings_of(source, **settings)
    load_config = _inner(config)
    if hasattr(load_config, "num_channels"):
        load_config.num_channels = getattr(AutoConfig.from_pretrained(source), "num_channels", 3)
    loaded, info = AutoModelForImageClassification.from_pretrained(
        source,
        config=load_config,
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    model = SpectrogramForAudioClassification._from_config(config, dtype=torch.float32)
    shapes = {name: tensor.shape for name, tensor in model.network.state_dict().items()}
    weights = {
        # What differs in shape is what takes the channels.
        name: tensor if tensor.shape == shapes[name] else tensor.sum(dim=1, keepdim=True)
        for name, tensor in loaded.state_dict().items()
    }
    model.network.load_state_dict(weights)
    if tensors:
        model.front_end.load_state_dict(tensors)
    return model.eval(), {
        **info,
        "missing_keys": {f"network.{name}" for name in info["missing_keys"]},
        "mismatched_keys": {(f"network.{name}", *shapes) for name, *shapes in info["mismatched_keys"]},
    }


def settings_of(source: str | Path, **settings: Any) -> tuple[SpectrogramConfig, dict[str, torch.Tensor]]:
    """What ``from_image_checkpoint`` makes of these settings: the configuration, and the tensors of an own front end.

    Raises:
        ValueError: no image classifier, or settings that do not go with it; the one line names them.
        OSError: no such checkpoint.
    """
    image_config = AutoConfig.from_pretrained(source)
    if type(image_config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"{source}: a {image_config.model_type!r} model is no image classifier; name one that "
            "AutoModelForImageClassification can load"
        )
    if not {"num_labels", "id2label"} & set(settings):
        kept = ("id2label", "label2id", "problem_type")
        settings = {name: getattr(image_config, name) for name in kept} | settings
    channels = getattr(image_config, "num_channels", 3)
    if channels == 1 != settings.get("num_channels", 1):
        raise ValueError(f"{source}: it takes one channel; leave out num_channels, or use 1")
    front_settings, tensors = _own_front_end(source, settings)
    front_settings = front_settings or FRONT_END
    return SpectrogramConfig(image_config=image_config, **{**front_settings, **settings}), tensors


def register() -> None:
    """Let transformers' auto classes know the configuration and the model; as often as you like.

    From then on ``save_pretrained`` puts this file beside the weights: with it the model loads by
    ``AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)`` where there is no hftl.
    """
    AutoConfig.register(SpectrogramConfig.model_type, SpectrogramConfig, exist_ok=True)
    AutoModelForAudioClassification.register(SpectrogramConfig, SpectrogramForAudioClassification, exist_ok=True)
    SpectrogramConfig.register_for_auto_class()
    SpectrogramForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")


def _image_config(settings: dict[str, Any]) -> Any:
    """The configuration in a dict, of its own class.

    Raises:
        ValueError: not of a family that transformers itself knows.
    """
    family = settings.get("model_type")
    if family not in transformers.CONFIG_MAPPING:
        raise ValueError(
            f"image_config: model_type {family!r} is no family of transformers; name one, such as 'resnet'"
        )
    return transformers.CONFIG_MAPPING[family].from_dict({k: v for k, v in settings.items() if k != "model_type"})


def _inner(config: SpectrogramConfig) -> Any:
    """A copy of the image classifier's configuration, with the labels and channels of the whole.

    Raises:
        ValueError: there is none, or it has no setting for the channels.
    """
    if config.image_config is None:
        raise ValueError("image_config: it is missing; give the configuration of an image classifier")
    inner: Any = copy.deepcopy(config.image_config)
    inner.id2label = dict(config.id2label)
    inner.label2id = {label: index for index, label in inner.id2label.items()}
    inner.problem_type = config.problem_type
    inner._name_or_path = ""  # where it was on this machine is not to be saved
    if hasattr(inner, "num_channels"):
        inner.num_channels = config.num_channels
    elif config.num_channels != 3:
        raise ValueError(f"num_channels: {inner.model_type} has no setting for the channels; use num_channels=3")
    return inner


def _own_front_end(source: str | Path, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings and tensors of the front end that lies beside the checkpoint's weights; empty where none does.

    Raises:
        ValueError: it says what is not understood here, or ``settings`` are against it.
    """
    from safetensors.torch import load_file

    files = [_beside(source, name) for name in ("frontend_config.json", "frontend.safetensors")]
    if None in files:
        return {}, {}
    said = json.loads(Path(str(files[0])).read_text(encoding="utf-8"))
    against = [name for name in MADE_INTO_TENSORS if settings.get(name, said[name]) != said[name]]
    if against:
        raise ValueError(
            f"{against[0]}: {source} brings its own front end, made with {said[against[0]]}; leave {against[0]} out"
        )
    offset = re.fullmatch(r"log\(mel ?\+ ?([\d.e-]+)\)", said["log"])
    power = {"magnitude": 1, "power": 2}.get(said["spectrogram"])
    if offset is None or power is None:
        raise ValueError(
            f"{files[0]}: log {said['log']!r} of spectrogram {said['spectrogram']!r} is not understood; "
            "use log(mel+…) of magnitude or power"
        )
    samples = said["win_length"] + (said["patch_frames"] - 1) * said["hop_length"]
    found = {name: said[name] for name in (*MADE_INTO_TENSORS, "hop_length")} | {
        "power": power,
        "log": "offset",
        "log_offset": float(offset[1]),
        "window_seconds": samples / said["sampling_rate"],
        "transposed": said["layout"].index("frames") < said["layout"].index("mels"),
    }
    tensors = load_file(str(files[1]))
    return found, {"window": tensors["window"], "filterbank": tensors["mel_filterbank"]}


def _beside(source: str | Path, name: str) -> str | None:
    found: str | None = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found
