"""Sounds in every form, for the tests that read them; these are skipped where the extra "audio" is not installed."""

from __future__ import annotations

import io

import numpy as np
import pytest

from hftl.audio.backend import mend_torchaudio

soundfile = pytest.importorskip("soundfile")
mend_torchaudio()
torchaudio = pytest.importorskip("torchaudio")

RATE = 16000


def noise(rate: int, seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise over a tone, different everywhere; shape (samples, channels)."""
    rng, samples = np.random.default_rng(seed), round(rate * seconds)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    return (tone[:, None] + 0.05 * rng.normal(size=(samples, channels))).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


STEREO = noise(RATE, 1.7, channels=2)
MONO = STEREO.mean(axis=1)
FORMS = {
    "8.wav": ("WAV", "PCM_U8"),
    "16.wav": ("WAV", "PCM_16"),
    "24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "a.flac": ("FLAC", None),
    "a.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", None),
    "a.aiff": ("AIFF", None),
    "a.au": ("AU", None),
    "a.caf": ("CAF", None),
    "a.w64": ("W64", None),
    "a.rf64": ("RF64", None),
}
ONE_STEP = {"8.wav": 2**-7, "a.flac": 2**-15, "24.wav": 1.01 * 2**-23, "float.wav": 2**-30, "a.aiff": 2**-15}
ONE_STEP |= dict.fromkeys(("16.wav", "a.au", "a.caf", "a.w64", "a.rf64"), 2**-15)
"""libsndfile rounds down."""
FILES = {name: encoded(STEREO, RATE, *form) for name, form in FORMS.items() if form[0] in soundfile.available_formats()}
"""An old libsndfile writes no MP3."""
