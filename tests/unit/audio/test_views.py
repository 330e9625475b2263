from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hftl.audio.views import add_noise, blend, fitted, random_crop_start, random_gain, random_shift

WAVE = np.random.default_rng(0).normal(scale=0.1, size=4000).astype(np.float32)
NOISE = np.random.default_rng(1).uniform(-0.7, 0.7, 4000).astype(np.float32)


def power(wave: np.ndarray) -> float:
    return float(np.mean(wave.astype(np.float64) ** 2))


VIEWS = {
    "start": lambda rng: np.asarray(random_crop_start(9.0, 2.0, rng)),
    "fitted": lambda rng: fitted(WAVE, 6000, rng),
    "gain": lambda rng: random_gain(WAVE, 6.0, rng),
    "shift": lambda rng: random_shift(WAVE, 0.3, rng),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_a_function_of_its_generator(name):
    before = WAVE.tobytes()
    views = [VIEWS[name](np.random.default_rng(seed)).tobytes() for seed in (1, 1, 2, 3)]
    assert views[0] == views[1]
    assert len(set(views)) == 3
    assert before == WAVE.tobytes()


def test_a_window_begins_anywhere_that_holds_it():
    rng = np.random.default_rng(0)
    starts = np.array([random_crop_start(10.0, 4.0, rng) for _ in range(2000)])
    assert 0 <= starts.min() < 0.05
    assert 5.95 < starts.max() <= 6
    assert starts.mean() == pytest.approx(3, abs=0.15)
    assert {random_crop_start(length, 4.0, rng) for length in (4.0, 3.0, 0.0)} == {0.0}


def test_zeros_follow_a_short_wave_and_a_long_one_is_cut():
    np.testing.assert_array_equal(fitted(WAVE, 5000), np.concatenate([WAVE, np.zeros(1000, np.float32)]))
    for rng in (None, np.random.default_rng(0)):
        np.testing.assert_array_equal(fitted(WAVE, 3000, rng), WAVE[:3000])
        np.testing.assert_array_equal(fitted(WAVE, 4000, rng), WAVE)
    assert fitted(WAVE, 5000).dtype == np.float32


def test_a_short_wave_is_anywhere_among_the_zeros_and_once():
    short, places = WAVE[:3], []
    for seed in range(400):
        found = fitted(short, 8, np.random.default_rng(seed))
        (place,) = [p for p in range(6) if (found[p : p + 3] == short).all()]
        assert np.count_nonzero(found) == 3
        places.append(place)
    assert np.bincount(places).min() > 40
    assert len(set(places)) == 6


def test_gain_is_uniform_in_decibels():
    gains = []
    for seed in range(400):
        louder = random_gain(WAVE, 6.0, np.random.default_rng(seed))
        ratio = louder / WAVE
        assert np.ptp(ratio) < 1e-5
        gains.append(20 * np.log10(ratio.mean()))
    assert louder.dtype == np.float32
    assert np.abs(gains).max() <= 6 + 1e-4
    counts, _ = np.histogram(gains, bins=4, range=(-6.001, 6.001))
    assert counts.min() > 70


@given(st.integers(0, 30), st.floats(0, 1), st.integers(0, 2**32))
@example(10, 1.0, 3)
@example(1, 0.0, 0)
def test_a_shift_moves_zeros_in(length, fraction, seed):
    wave = np.arange(1, length + 1, dtype=np.float32)
    shifted = random_shift(wave, fraction, np.random.default_rng(seed))
    padded = np.pad(wave, length)
    fits = [
        shift
        for shift in range(-length, length + 1)
        if (shifted == padded[length - shift : 2 * length - shift]).all() and abs(shift) <= fraction * length
    ]
    assert fits
    assert (shifted.dtype, shifted.shape) == (np.float32, wave.shape)


def test_a_shift_goes_both_ways_as_far_as_told():
    wave = np.arange(1, 101, dtype=np.float32)
    shifts = [int(random_shift(wave, 0.2, np.random.default_rng(seed))[50]) - 51 for seed in range(600)]
    assert (min(shifts), max(shifts)) == (-20, 20)
    assert len(set(shifts)) == 41


@given(st.floats(-20, 40), st.floats(0.001, 1), st.floats(0.001, 1))
def test_noise_has_the_level_asked_for(decibels, loudness, noise_loudness):
    wave, noise = WAVE * np.float32(loudness), NOISE * np.float32(noise_loudness)
    added = add_noise(wave, noise, decibels)
    expected = np.sqrt(power(wave) / power(noise)) * 10 ** (-decibels / 20)
    np.testing.assert_allclose(added, wave + expected * noise, rtol=1e-5, atol=1e-7)
    assert added.dtype == np.float32


@pytest.mark.parametrize("decibels", [-10.0, 0.0, 3.0, 20.0])
def test_the_signal_to_noise_ratio_is_exact(decibels):
    """Measured on what was added, in places where the wave is 0, so that no float is rounded."""
    wave, noise = WAVE.copy(), NOISE.copy()
    wave[::2], noise[1::2] = 0, 0
    added = add_noise(wave, noise, decibels)
    np.testing.assert_array_equal(added[1::2], wave[1::2])
    part = added.copy()
    part[1::2] = 0
    assert 10 * np.log10(power(wave) / power(part)) == pytest.approx(decibels, abs=1e-6)


def test_silence_and_noise():
    silence = np.zeros_like(WAVE)
    np.testing.assert_array_equal(add_noise(silence, NOISE, 20.0), NOISE)
    np.testing.assert_array_equal(add_noise(WAVE, silence, 20.0), WAVE)
    assert add_noise(WAVE, silence, 20.0) is not WAVE
    np.testing.assert_array_equal(add_noise(silence, silence, 20.0), silence)


def test_mixup_blends():
    np.testing.assert_allclose(blend(WAVE, NOISE, 0.3), 0.3 * WAVE + 0.7 * NOISE, rtol=1e-5, atol=1e-7)
    assert blend(WAVE, NOISE, 0.3).dtype == np.float32
    np.testing.assert_array_equal(blend(WAVE, NOISE, 1.0), WAVE)
