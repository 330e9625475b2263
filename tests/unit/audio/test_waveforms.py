"""What the extractors of waveform models and their masks make of windows of sound."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_runs import quick
from sound_files import noise, soundfile
from stored_runs import Ran, assert_close, run
from zoo import SOUND_RATE

from hftl import Phase
from hftl.audio import extractors
from hftl.audio.waveforms import suited
from hftl.tasks import AudioClassification

TinyModel = Callable[[str], Path]


# -- silence ---------------------------------------------------------------------------------------------------------


def test_sound_that_is_masked_is_heard_without_the_silence_around_it(tiny_model: TinyModel) -> None:
    extractor = extractors.load(str(tiny_model("wav2vec2-layer-norm")), False)
    samples, second = 5 * SOUND_RATE, noise(SOUND_RATE, 1.0)[:, 0] * 0.1 + np.float32(0.05)
    long, silence = noise(SOUND_RATE, 5.0, seed=1)[:, 0], np.zeros(samples, dtype=np.float32)
    click = silence.copy()
    click[-1] = 1.0
    waves = [np.pad(second, (before, samples - len(second) - before)) for before in (0, 700, samples - len(second))]
    inputs = extractors.batch(extractor, [*waves, long, silence, click])
    values, mask = inputs["input_values"], inputs["attention_mask"]
    assert values.shape == mask.shape == (6, samples)
    assert mask.sum(dim=1).tolist() == [len(second)] * 3 + [samples, samples, SOUND_RATE // 20]  # or a frame
    assert mask[0, : len(second)].all()
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    heard = values[0, : len(second)]
    assert (heard.mean().item(), heard.std().item()) == pytest.approx((0, 1), abs=1e-3)
    assert not values[0, len(second) :].any()
    for wave, found in ((second, heard), (long, values[3])):
        alone = extractor([wave], sampling_rate=SOUND_RATE, return_tensors="pt")["input_values"][0]
        torch.testing.assert_close(found, alone)


def test_without_a_mask_windows_are_heard_whole(tiny_model: TinyModel) -> None:
    wave = np.pad(noise(SOUND_RATE, 0.1)[:, 0], (0, SOUND_RATE))
    for family in ("wav2vec2", "ast", "wav2vec2-bert"):
        extractor = extractors.load(str(tiny_model(family)), False)
        plain = extractor([wave], sampling_rate=SOUND_RATE, return_tensors="pt")
        found = extractors.batch(extractor, [wave])
        assert found.keys() == plain.keys()
        assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


def test_stored_features_are_pooled_over_the_sound_of_each_recording(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the rows that are looked at before, the first, the middle and the last, have no silence after them."""
    monkeypatch.setattr("hftl.report.curves.draw", lambda folder: None)  # slow, and none of this file's business
    for split, number in itertools.product(("train", "validation"), range(9)):
        folder = tmp_path / "calls" / split / "abc"[number // 3]
        folder.mkdir(parents=True, exist_ok=True)
        wave = noise(
            SOUND_RATE, 0.3 if split == "train" and number in (0, 4, 8) else 0.1, seed=number + 9 * (split == "train")
        )
        soundfile.write(folder / f"{number}.wav", wave, SOUND_RATE)

    def once(name: str, use: bool) -> Ran:
        task = AudioClassification(str(tmp_path / "calls"), seconds=0.3)
        recipe = quick(task, tiny_model("wav2vec2-layer-norm"), tmp_path / name, phases=(Phase("head", 1, 1e-2),))
        return run(recipe, tmp_path / "stores", use)

    plain, stored = once("plain", False), once("stored", True)
    assert stored.computed == [["train", "validation"]]
    assert_close(plain, stored)


# -- what is masked or left out in training --------------------------------------------------------------------------


def waveform_model(load_tiny: Callable[..., Any], **settings: Any) -> Any:
    model = load_tiny("wav2vec2").model
    model.config.update(settings)
    return model


@pytest.mark.parametrize(
    ("samples", "probability", "least", "words"),
    [
        (1440, 0.0, 2, ["mask_time_prob: 0", "10 frames", "a window 9"]),
        (4800, 0.05, 0, ["mask_time_min_masks: 0", "2 masks of 10", "a window of 30"]),
        (8000, 0.05, 2, []),
    ],
)
def test_masks_leave_half_of_a_short_window(
    samples: int, probability: float, least: int, words: list[str], load_tiny: Callable[..., Any]
) -> None:
    model = waveform_model(load_tiny, layerdrop=0.0)
    inputs = torch.randn(4, samples, generator=torch.Generator().manual_seed(0))
    if probability == 0:  # what it is all for
        with pytest.raises(ValueError, match="`mask_length` has to be smaller"):
            model.train()(inputs)
    notes = suited(model, samples, None)
    assert [word for word in words if word not in "".join(notes)] == []
    assert len(notes) == (1 if words else 0)
    assert (model.config.mask_time_prob, model.config.mask_time_min_masks) == (probability, least)
    assert torch.isfinite(model.train()(inputs).logits).all()


def test_masks_leave_most_of_a_recording_that_is_shorter_than_its_window(
    load_tiny: Callable[..., Any], tiny_model: TinyModel
) -> None:
    model = load_tiny("wav2vec2-layer-norm").model
    model.config.update({"mask_time_length": 10})
    extractor = extractors.load(str(tiny_model("wav2vec2-layer-norm")), False)
    (note,) = suited(model, 16000, extractor)  # of 100 frames
    assert "mask_time_min_masks: 0, for 2 masks of 10 frames" in note
    wave = np.pad(np.random.default_rng(0).normal(size=2000).astype(np.float32), (0, 14000))  # 12 of them are sound
    inputs, given = extractors.batch(extractor, [wave] * 32), []
    encoder = model.wav2vec2.encoder
    encoder.register_forward_pre_hook(lambda _, args, named: given.append(args[0]), with_kwargs=True)
    np.random.seed(0)  # of it transformers draws where the masks are
    with torch.no_grad():
        model.train()(**inputs)
    masked = (given[0][:, :12] == model.wav2vec2.masked_spec_embed).all(dim=2)
    assert masked.float().mean() < 0.2


@pytest.mark.parametrize(
    ("samples", "probability", "least", "words"),
    [
        (3200, 0.0, 2, ["mask_time_prob: 0", "10 frames", "a window 9"]),
        (8000, 0.05, 0, ["mask_time_min_masks: 0", "2 masks of 10", "a window of 24"]),
        (16000, 0.05, 2, []),
    ],
)
def test_masks_over_what_the_feature_extractor_gives_leave_half_of_a_short_window(
    samples: int,
    probability: float,
    least: int,
    words: list[str],
    load_tiny: Callable[..., Any],
    tiny_model: TinyModel,
) -> None:
    model, extractor = load_tiny("wav2vec2-bert").model, extractors.load(str(tiny_model("wav2vec2-bert")), False)
    wave = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    inputs = extractors.batch(extractor, [wave] * 4)
    notes = suited(model, samples, extractor)
    assert [word for word in words if word not in "".join(notes)] == []
    assert len(notes) == (1 if words else 0)
    assert (model.config.mask_time_prob, model.config.mask_time_min_masks) == (probability, least)
    assert torch.isfinite(model.train()(**inputs).logits).all()


@pytest.mark.parametrize(("family", "setting"), [("wav2vec2", "layerdrop"), ("whisper", "encoder_layerdrop")])
def test_no_layer_is_left_out(family: str, setting: str, load_tiny: Callable[..., Any], tiny_model: TinyModel) -> None:
    model = load_tiny(family).model
    setattr(model.config, setting, 1.0)
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 1.0
    wave = [np.random.default_rng(0).normal(size=8000).astype(np.float32)]
    extractor = extractors.load(str(tiny_model(family)), False)
    inputs = extractors.batch(extractor, wave)
    assert suited(model, 8000, extractor) == [f"{setting}: 1.0 in the checkpoint, 0 here: all processes train alike"]
    model.train()(**inputs).logits.sum().backward()
    unreached = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert [name for name in unreached if "masked_spec_embed" not in name] == []
