"""Parts of sounds, resampled: they are what they would be of the whole."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sound_files import FILES, MONO, RATE, encoded, noise, soundfile, torchaudio

from hftl.audio import sounds
from hftl.audio.sounds import extent, first_sample, read_sound, stream


@pytest.mark.parametrize("name", FILES)
def test_a_part_is_a_slice(name):
    whole = read_sound(FILES[name], RATE)
    for start, seconds in ((0.0, 0.5), (0.25, 0.5), (1.0, 0.7), (1.5, 9.0), (0.5, None)):
        first = round(start * RATE)
        last = len(whole) if seconds is None else first + round(seconds * RATE)
        part = read_sound(FILES[name], RATE, start, seconds)
        np.testing.assert_allclose(part, whole[first:last], atol=1e-6)


def now_and_then(rate: int, seconds: float) -> np.ndarray:
    """Calls with silence between them: an encoder of MP3 then spreads what it has of a frame over those before it."""
    samples = noise(rate, seconds)
    return samples * (np.sin(2 * np.pi * 0.7 * np.arange(len(samples)) / rate) > 0)[:, None]


LONG = {
    "opus": (RATE, {"form": "OGG", "subtype": "OPUS"}),
    "mp3 22": (22050, {"form": "MP3"}),
    "mp3 24": (24000, {"form": "MP3"}),
    "mp3 44": (44100, {"form": "MP3"}),
}


@pytest.mark.parametrize("name", LONG)
def test_a_part_of_a_long_file_is_a_slice(name):
    rate, form = LONG[name]
    if form["form"] not in soundfile.available_formats():
        pytest.skip("an old libsndfile writes no MP3")
    data = encoded(now_and_then(rate, 20), rate, **form)
    whole = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    np.testing.assert_allclose(read_sound(data, rate), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([*stream(data, rate, rate)]), whole, rtol=0, atol=1e-6)
    for start in np.random.default_rng(0).uniform(0, 18.9, 40).round(3):
        first = first_sample(start, rate)
        np.testing.assert_allclose(read_sound(data, rate, start, 1.0), whole[first : first + rate], rtol=0, atol=1e-6)


PAIRS = [(44100, 16000), (8000, 16000), (32000, 16000), (22050, 32000), (48000, 44100), (11025, 16000), (16000, 16000)]


@cache
def recording(old: int, new: int) -> tuple[bytes, np.ndarray]:
    """2.3 s of noise at one rate, and all of it at another."""
    samples = noise(old, 2.3)
    whole = torchaudio.transforms.Resample(old, new)(torch.from_numpy(samples[:, 0])).numpy()
    return encoded(samples, old, subtype="FLOAT"), whole


@given(st.sampled_from(PAIRS), st.floats(0, 2.29), st.floats(0.01, 3))
@settings(max_examples=150)
@example((44100, 16000), 0.0, 2.3)
@example((8000, 16000), 2.2999, 1.0)
@example((22050, 32000), 1.0, 1.3)
def test_a_part_resampled_is_the_part_of_all_resampled(pair, start, seconds):
    data, whole = recording(*pair)
    part = read_sound(data, pair[1], start, seconds)
    first = first_sample(start, pair[1])
    expected = whole[first : first + round(seconds * pair[1])]
    assert part.dtype == np.float32
    np.testing.assert_allclose(part, expected, rtol=0, atol=1e-5)


@given(st.sampled_from(PAIRS), st.floats(0, 1), st.floats(0.01, 1))
@example((16000, 16000), 1.5 / 16000, 2.5 / 16000)
@example((44100, 16000), 0.29, 1.0)
def test_a_part_that_the_recording_holds_has_all_its_samples(pair, share, share_left):
    """Also where start and end are ones that a caller computed from the duration."""
    data, _ = recording(*pair)
    start = share * extent(data)[0]
    seconds = share_left * (extent(data)[0] - start)
    if round(seconds * pair[1]) > 0:
        assert len(read_sound(data, pair[1], start, seconds)) == round(seconds * pair[1])


def test_a_start_at_a_sample_is_at_that_sample():
    """Also where the floats have it a little before."""
    data = encoded(MONO, subtype="FLOAT")
    before = [place for place in range(20_000) if place / RATE * RATE < place]
    assert before
    for place in [1, 2, *before[:50]]:
        np.testing.assert_array_equal(read_sound(data, RATE, place / RATE, 0.001), MONO[place : place + 16])


def test_three_samples_are_three_wherever_they_start():
    data = encoded(MONO[:4])
    for start, count in ((1.5, 2.5), (0.5, 3.5), (2.5, 1.5)):
        assert len(read_sound(data, RATE, start / RATE, count / RATE)) == round(count)


def test_a_long_recording_has_all_its_samples():
    """torchaudio counts them in 32-bit floats, which do not hold odd numbers above 2**24."""
    samples, expected = 3 * 3355445, 5 * 3355445
    array = np.zeros(samples, dtype=np.float32)
    array[-50:] = 0.5
    wave = read_sound({"array": array, "sampling_rate": 9000}, 15000)
    assert len(wave) == expected > 2**24
    assert wave[-1] > 0.2


def test_only_what_is_needed_is_decoded(monkeypatch):
    asked = []
    read = sounds._Encoded.read
    monkeypatch.setattr(sounds._Encoded, "read", lambda self, *part: asked.append(part) or read(self, *part))
    data, _ = recording(44100, 16000)
    read_sound(data, 16000, 1.0, 0.1)
    ((start, stop),) = asked
    assert 44100 - 1000 < start < 44100
    assert 44100 * 1.1 < stop < 44100 * 1.1 + 1000
