"""Feature extractors: what makes of the samples of a recording what a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftl.errors import HftlError
from hftl.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch

    from hftl.audio.sounds import Wave

LEAST = 0.05
"""Seconds that are left of a wave at least where its silence is masked: a frame of a model takes some 0.03."""
LEVEL = 0.05
"""Of the noise that tells whether loudness counts: as recordings have it, where the least sounds are still heard."""
UNHEARD = 0.01
"""A mean change of the input by less than this part of its standard deviation counts as none."""


def load(model: str, trust_remote_code: bool) -> Any:
    """The checkpoint's feature extractor.

    Raises:
        HftlError: the checkpoint has none, or one that is not for sound.
    """
    from transformers import AutoFeatureExtractor

    try:
        with quiet_transformers():
            extractor = AutoFeatureExtractor.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise HftlError(
            f"--model {model}: no feature extractor loads from it (preprocessor_config.json); save the one it was "
            f"trained with beside it ({str(error).splitlines()[0]})"
        ) from None
    if not hasattr(extractor, "sampling_rate"):
        raise HftlError(f"--model {model}: its {type(extractor).__name__} is not for sound; name another model")
    return extractor


def plain(sampling_rate: int, seconds: float | None) -> Any:
    """One that hands samples on as they are, for models that make their spectrogram themselves.

    Args:
        sampling_rate: samples a second.
        seconds: what the model hears at once; None where it takes any length.
    """
    from transformers import Wav2Vec2FeatureExtractor

    return Wav2Vec2FeatureExtractor(
        sampling_rate=sampling_rate, do_normalize=False, return_attention_mask=False, window_seconds=seconds
    )


def seconds_of(extractor: Any) -> float | None:
    """What the model was made to hear at once; None where it takes any length."""
    if getattr(extractor, "window_seconds", None) is not None:
        return float(extractor.window_seconds)
    return most_seconds(extractor)


def most_seconds(extractor: Any) -> float | None:
    """What the extractor takes at most: it drops what comes after, without a word; None where it takes all."""
    if hasattr(extractor, "n_samples"):  # Whisper's kind: silence fills what is left of it
        return float(extractor.n_samples / extractor.sampling_rate)
    if hasattr(extractor, "max_length") and hasattr(extractor, "num_mel_bins"):  # AST's kind: frames of 10 ms
        return float(extractor.max_length / 100)
    return None


def masks_samples(extractor: Any) -> bool:
    """Whether it says by a mask, shape (windows, samples), which samples are sound and which were put around it."""
    from transformers import Wav2Vec2FeatureExtractor

    return isinstance(extractor, Wav2Vec2FeatureExtractor) and bool(extractor.return_attention_mask)


def batch(extractor: Any, waves: Sequence[Wave]) -> dict[str, torch.Tensor]:
    """What the model takes of windows of one length, first dimension: windows.

    Models that are given a mask of samples were made without the silence around a recording: they get the sound at the
    beginning of the window, made mean 0 and standard deviation 1 by itself, zeros after it, and the mask says so.
    """
    options: dict[str, Any] = {}
    if masks_samples(extractor):
        options = {"padding": "max_length", "max_length": max(map(len, waves))}
        waves = [_sounding(wave, round(LEAST * extractor.sampling_rate)) for wave in waves]
    return dict(extractor([*waves], sampling_rate=extractor.sampling_rate, return_tensors="pt", **options))


def _sounding(wave: Wave, least: int) -> Wave:
    """The wave without zeros at either end, but so many samples of it at least; all of it where all are zero."""
    sounding = np.flatnonzero(wave)
    if not len(sounding):
        return wave
    first = max(0, min(int(sounding[0]), len(wave) - least))
    return wave[first : max(int(sounding[-1]) + 1, first + least)]


def undoes_gain(extractor: Any, samples: int, front_end: Callable[[torch.Tensor], torch.Tensor] | None = None) -> bool:
    """Whether a model is given the same of a window twice as loud, for each is normalised; found by trying.

    Of a window that no silence of zeros is in: beside it a spectrogram's normalisation leaves some of the difference.

    Args:
        extractor: the model's.
        samples: of a window.
        front_end: what the model makes of the extractor's values first, where it has one: tensors of shape (rows, …).
    """
    import torch

    swelling = np.abs(np.sin(np.linspace(0, 10, samples))) * np.random.default_rng(0).normal(size=samples)
    wave = (LEVEL * swelling).astype(np.float32)
    values = next(iter(batch(extractor, [wave, 2 * wave]).values()))  # what may follow is a mask
    with torch.no_grad():
        plain, louder = values if front_end is None else front_end(values)
    return bool((louder - plain).abs().mean() < UNHEARD * plain.std())
