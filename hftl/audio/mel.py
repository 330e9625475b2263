"""Image models that hear: the spectrogram in front of them, as options, and how they are loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from hftl.errors import HftlError, one_line
from hftl.quiet import quiet_transformers
from hftl.recipe.phase import Strict

if TYPE_CHECKING:
    from hftl.model.heads import Loaded

FASTER = 10.0
"""What the learning rate is multiplied by for convolutional networks on spectrograms, and for all models that have only
seen images. Measured: YAMNet on 10 and 30 spoken digits a class, and on 15 recordings of each of three birds."""


@dataclass(frozen=True)
class Mel(Strict):
    """The log-mel spectrogram that an image model looks at. See ``hftl.audio.spectrogram.SpectrogramConfig``.

    What is unset is as the checkpoint's own front end has it (a ``frontend_config.json``, as beside YAMNet), or else as
    said here. Models that have their own feature extractor are not asked.
    """

    sampling_rate: int | None = None
    """Samples a second; 16000. Birds want 32000."""
    n_fft: int | None = None
    """Samples of a Fourier transform; 1024."""
    win_length: int | None = None
    """Samples of a frame; 1024."""
    hop_length: int | None = None
    """Samples from one frame to the next; 160."""
    n_mels: int | None = None
    """Bands; 128."""
    f_min: float | None = None
    """Lowest frequency in hertz; 50."""
    f_max: float | None = None
    """Highest frequency in hertz; half of the sampling rate."""
    power: Literal[1, 2] | None = None
    """Whether bands sum magnitudes or powers; 2."""
    log: Literal["offset", "decibel"] | None = None
    """log(mel + log_offset), or decibels below the loudest point; offset."""
    log_offset: float | None = None
    """What is added before the logarithm; 1e-6."""
    normalisation: Literal["none", "row", "fixed"] | None = None
    """row: each spectrogram to mean 0 and standard deviation 1; fixed: by mean and std; row."""
    mean: float | None = None
    """Of fixed normalisation."""
    std: float | None = None
    """Of fixed normalisation."""
    image_size: tuple[int, int] | None = None
    """Height and width to which spectrograms are resized, for models that take one size alone; unset, they are not."""
    time_masks: int | None = None
    """SpecAugment (Park et al. 2019) while all layers train: stretches of frames that are masked; 0."""
    time_mask_width: int | None = None
    """At most so many frames each."""
    freq_masks: int | None = None
    """Stretches of bands that are masked; 0."""
    freq_mask_width: int | None = None
    """At most so many bands each."""

    def said(self) -> dict[str, Any]:
        """What is set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def unused(self) -> list[str]:
        """A note, where the model has a front end of its own and something is set."""
        said = ", ".join(self.said())
        return [f"mel: {said} is not used, for the model has a front end of its own"] if said else []


def know_spectrograms() -> None:
    """Let the auto classes load hftl's own models of sound, where what they are made of is installed."""
    with contextlib.suppress(ImportError):  # of torchaudio; who reads sounds will be told of it
        from hftl.audio import spectrogram

        spectrogram.register()


def is_image_model(model: str, trust_remote_code: bool) -> bool:
    """Whether the checkpoint is a classifier of images, to be put behind a spectrogram.

    Raises:
        HftlError: it is neither that nor a model of sounds.
    """
    from hftl.model import heads

    know_spectrograms()
    try:
        heads.config_of("AutoModelForAudioClassification", model, trust_remote_code)
    except HftlError as error:
        try:
            heads.config_of("AutoModelForImageClassification", model, trust_remote_code)
        except HftlError:
            raise error from None
        return True
    return False


def processor_of(model: str, mel: Mel) -> Any:
    """A feature extractor that hands samples on as they are, for the spectrogram is made inside the model.

    Raises:
        HftlError: settings that do not go together.
    """
    from hftl.audio import extractors, spectrogram

    with _one_line(model):
        config, own_front_end = spectrogram.settings_of(model, **mel.said())
    return extractors.plain(config.sampling_rate, config.window_seconds if own_front_end else None)


def load(model: str, labels: Sequence[str], seconds: float, mel: Mel, keep_head: bool, head_dropout: float) -> Loaded:
    """The image model behind a spectrogram of ``seconds``.

    Raises:
        HftlError: settings that do not go together, or not with this model.
    """
    from torch import nn

    from hftl.audio import spectrogram
    from hftl.model import heads

    names = dict(enumerate(labels))
    with _one_line(model), quiet_transformers():
        found = spectrogram.from_image_checkpoint(model, id2label=names, window_seconds=seconds, **mel.said())
        _, own_front_end = spectrogram.settings_of(model)
    _check_size(found[0], model)
    _check_masks(found[0].config)
    loaded = heads.with_head(*found, model, keep_head, head_dropout)
    notes = (*loaded.notes, *_empty_bands(found[0]))
    far = not own_front_end
    convolutional = any(isinstance(module, nn.BatchNorm2d) for module in loaded.model.modules())
    faster = FASTER if far or convolutional else 1.0
    return replace(loaded, converted=True, far=far, faster=faster, notes=notes)


def _check_masks(config: Any) -> None:
    frames = 1 + (config.window_samples - config.win_length) // config.hop_length
    if config.time_mask_width > frames:
        raise HftlError(
            f"mel.time_mask_width: {config.time_mask_width} is more than the {frames} frames of a window of "
            f"{config.window_seconds:g} s; use fewer"
        )


@contextlib.contextmanager
def _one_line(model: str) -> Iterator[None]:
    """What the spectrogram model says of its settings, as an error that names the checkpoint."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise HftlError(f"--model {model}: {one_line(error)}") from None


def _check_size(model: Any, source: str) -> None:
    """That the image model takes spectrograms of their size: some take one size alone."""
    import torch

    size = getattr(model.network.config, "image_size", None)
    with torch.no_grad():
        image = model.front_end.eval()(torch.zeros(1, model.config.window_samples))
        try:
            model.network.eval()(pixel_values=image)
        except (ValueError, RuntimeError) as error:
            if size is None:
                return  # the size is not what it is about: the whole is tried out before training
            height, width = [size] * 2 if isinstance(size, int) else size
            raise HftlError(
                f"--model {source}: it takes no spectrogram of {image.shape[2]} x {image.shape[3]} "
                f"({one_line(error, 100)}); give --task.mel.image-size {height} {width}"
            ) from None


def _empty_bands(model: Any) -> list[str]:
    """A note where bands are narrower than the frequencies that the Fourier transform tells apart."""
    bank = model.front_end.filterbank
    empty = int((bank == 0).all(dim=1).sum())
    note = f"mel: {empty:,} of {len(bank):,} bands have no frequency in them; lower n_mels or raise n_fft"
    return [note] if empty else []
