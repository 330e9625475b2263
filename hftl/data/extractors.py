"""Feature extractors: what makes of the samples of a recording what a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftl.errors import HftlError
from hftl.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch

    from hftl.data.sounds import Wave

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
    if hasattr(extractor, "n_samples"):  # Whisper's kind: silence fills what is left of it
        return float(extractor.n_samples / extractor.sampling_rate)
    if hasattr(extractor, "max_length") and hasattr(extractor, "num_mel_bins"):  # AST's kind: frames of 10 ms
        return float(extractor.max_length / 100)
    return None


def batch(extractor: Any, waves: Sequence[Wave]) -> dict[str, torch.Tensor]:
    """What the model takes of windows of one length, first dimension: windows."""
    return dict(extractor([*waves], sampling_rate=extractor.sampling_rate, return_tensors="pt"))


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
    values = batch(extractor, [wave, 2 * wave])[extractor.model_input_names[0]]
    with torch.no_grad():
        plain, louder = values if front_end is None else front_end(values)
    return bool((louder - plain).abs().mean() < UNHEARD * plain.std())
