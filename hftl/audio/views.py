"""Random views of training sounds, and mixtures of two of them.

A wave is float32 of shape (samples,); none is changed in place. Everything random comes from the generator that is
handed in, so who makes it of (seed, row) gets a pure function.
"""

from __future__ import annotations

import math

import numpy as np

from hftl.audio.sounds import Wave


def random_crop_start(length_seconds: float, window_seconds: float, rng: np.random.Generator) -> float:
    """Where a window begins in a sound, in seconds, uniform over all places that hold it; 0 where none does."""
    return float(rng.uniform(0.0, max(length_seconds - window_seconds, 0.0)))


def fitted(wave: Wave, samples: int, rng: np.random.Generator | None = None) -> Wave:
    """The wave with so many samples: a longer one is cut at its end, a shorter one gets zeros.

    The zeros follow it; with ``rng`` a random share of them, uniform, precedes it.
    """
    missing = max(samples - len(wave), 0)
    before = 0 if rng is None else int(rng.integers(missing + 1))
    return np.pad(wave[:samples], (before, missing - before))


def random_gain(wave: Wave, decibels: float, rng: np.random.Generator) -> Wave:
    """The wave louder or softer by at most ``decibels``, uniform in them; it may exceed -1 to 1."""
    return np.asarray(wave * 10 ** (rng.uniform(-decibels, decibels) / 20), dtype=np.float32)


def random_shift(wave: Wave, fraction: float, rng: np.random.Generator) -> Wave:
    """The wave earlier or later by at most ``fraction`` (0 to 1) of its length, uniform; zeros move in."""
    most = int(fraction * len(wave))
    shift = int(rng.integers(-most, most + 1))
    shifted = np.zeros_like(wave)
    shifted[max(shift, 0) : len(wave) + min(shift, 0)] = wave[max(-shift, 0) : len(wave) - max(shift, 0)]
    return shifted


def add_noise(wave: Wave, noise: Wave, decibels_snr: float) -> Wave:
    """The wave with noise of the same shape, scaled so that the wave's mean power is ``decibels_snr`` above its own.

    To silence noise is added as it is, for there is no level to measure it by; silence as noise changes nothing.
    """
    signal_power, noise_power = (float(np.mean(np.square(part, dtype=np.float64))) for part in (wave, noise))
    if noise_power == 0:
        return wave.copy()
    scale = math.sqrt(signal_power / noise_power) * 10 ** (-decibels_snr / 20) if signal_power else 1.0
    return np.asarray(wave + scale * noise, dtype=np.float32)


def blend(wave: Wave, other: Wave, share: float) -> Wave:
    """Two waves of the same shape over each other, the first with ``share`` (0 to 1) of the amplitude.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """
    return np.asarray(share * wave + (1 - share) * other, dtype=np.float32)
