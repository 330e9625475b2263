"""The spectrogram CNN: what it hears, which weights it has, how it is saved, and that the machinery takes it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from zoo import IMAGE

from hftl.audio import spectrogram
from hftl.audio.sounds import read_sound
from hftl.audio.spectrogram import SpectrogramConfig, SpectrogramForAudioClassification, from_image_checkpoint
from hftl.audio.views import fitted
from hftl.features.replay import Replay, capture, draws_before, find_cut
from hftl.model import heads
from hftl.model.layers import LayerGroups, freeze, set_modes

WITHOUT_NATIVE_PARTS = """
import sys, types
stub = types.ModuleType("torchaudio._extension")
stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False
stub.fail_if_no_align = lambda function: function
stub._check_cuda_version = lambda: None
stub._load_lib = lambda name: False
sys.modules["torchaudio._extension"] = stub
"""
"""torchaudio's native library is linked against CUDA, and does not load beside a CPU torch."""

spectrogram.register()
Auto = transformers.AutoModelForAudioClassification

FAMILIES = ("mobilenet_v1", "mobilenet_v2", "resnet", "efficientnet", "convnextv2", "vit")
SMALL = {"n_fft": 128, "win_length": 100, "hop_length": 40, "n_mels": 16, "window_seconds": 0.1, "image_size": 32}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def build(tiny_model: Callable[[str], Path]) -> Callable[..., SpectrogramForAudioClassification]:
    """Makes a small spectrogram CNN of a tiny image model."""

    def make(family: str, **settings: Any) -> SpectrogramForAudioClassification:
        source = tiny_model(family)
        torch.manual_seed(0)
        return from_image_checkpoint(source, **{**SMALL, **settings})[0]

    return make


def waves(rows: int = 2, samples: int = 1600, seed: int = 0) -> torch.Tensor:
    """Noise, each row louder than the one before."""
    drawn = torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.logspace(-3, -1, rows).unsqueeze(1)


def front_end(**settings: Any) -> nn.Module:
    """That of a model without weights worth having."""
    image = transformers.MobileNetV1Config(depth_multiplier=0.25)
    return SpectrogramForAudioClassification(SpectrogramConfig(image_config=image, **settings)).eval().front_end


def mel_by_definition(wave: np.ndarray, bank: np.ndarray, frame: int, hop: int, n_fft: int, power: int) -> np.ndarray:
    """As tf.signal.stft does it: frames from the first sample on, periodic Hann, zeros behind; (frames, mels)."""
    starts = range(0, len(wave) - frame + 1, hop)
    frames = np.stack([wave[start : start + frame] for start in starts]).astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    return np.abs(np.fft.rfft(frames * window, n_fft)) ** power @ bank.astype(np.float64).T


# -- what it hears ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "frames"), [(15_600, 96), (15_759, 96), (15_760, 97)])
def test_the_defaults_are_yamnets_spectrogram(samples: int, frames: int) -> None:
    hearing = front_end(transposed=True)
    image, bank = hearing(waves(1, samples)), hearing.filterbank.numpy()
    expected = np.log(mel_by_definition(waves(1, samples)[0].numpy(), bank, 400, 160, 512, 1) + 0.001)
    assert image.shape == (1, 1, frames, 64)
    np.testing.assert_allclose(image[0, 0], expected, atol=1e-4)
    assert SpectrogramConfig().window_samples == 15_600


@pytest.mark.parametrize("win_length", [99, 100, 127, 128])
@pytest.mark.parametrize("power", [1, 2])
def test_frames_of_any_length_begin_where_they_should(win_length: int, power: int) -> None:
    hearing = front_end(**{**SMALL, "win_length": win_length, "image_size": None}, power=power, log_offset=1.0)
    wave = waves(1, win_length + 40 * 50)
    mel = mel_by_definition(wave[0].numpy(), hearing.filterbank.numpy(), win_length, 40, 128, power)
    assert len(mel) == 51
    np.testing.assert_allclose(hearing(wave)[0, 0].T, np.log(mel + 1.0), atol=1e-5)


def test_the_mel_bands_are_centred_on_the_mel_scale() -> None:
    hearing = front_end()
    edges = 700 * (np.exp(np.linspace(*(1127 * np.log1p(np.array([125, 7500]) / 700)), 66) / 1127) - 1)
    bins = np.linspace(0, 8000, 257)
    triangles = [np.interp(bins, edges[band : band + 3], [0, 1, 0]) for band in range(64)]
    np.testing.assert_allclose(hearing.filterbank, triangles, atol=1e-3)


@pytest.mark.parametrize("top_db", [20.0, None])
def test_decibel_counts_down_from_the_loudest_point_of_each_row(top_db: float | None) -> None:
    hearing = front_end(log="decibel", top_db=top_db, power=2)
    wave = waves(3, 15_600)
    for row, image in zip(wave.numpy(), hearing(wave), strict=True):
        decibel = 10 * np.log10(mel_by_definition(row, hearing.filterbank.numpy(), 400, 160, 512, 2).T)
        np.testing.assert_allclose(image[0], decibel.clip(decibel.max() - (top_db or 1e9)), atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"log": "decibel", "top_db": 20.0},
        {"normalisation": "row"},
        {"normalisation": "fixed", "mean": -4, "std": 2},
    ],
)
def test_a_row_does_not_depend_on_the_others(settings: dict[str, Any]) -> None:
    hearing = front_end(**settings)
    together = hearing(waves(3, 15_600))
    alone = torch.cat([hearing(row.unsqueeze(0)) for row in waves(3, 15_600)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_normalisation() -> None:
    plain = front_end()(waves(3, 15_600))
    by_row = front_end(normalisation="row")(waves(3, 15_600))
    torch.testing.assert_close(by_row.mean(dim=(1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(by_row.std(dim=(1, 2, 3)), torch.ones(3), rtol=0, atol=1e-5)
    fixed = front_end(normalisation="fixed", mean=-4.0, std=2.0)(waves(3, 15_600))
    torch.testing.assert_close(fixed, (plain + 4) / 2)
    silence = front_end(normalisation="row")(torch.zeros(1, 15_600))
    assert silence.abs().max() < 1  # and no number divided by 0


def test_short_rows_are_filled_up_with_silence_and_long_ones_heard_whole() -> None:
    hearing, short = front_end(), waves(2, 5_000)
    filled = torch.cat([short, torch.zeros(2, 10_600)], dim=1)
    assert torch.equal(hearing(short), hearing(filled))
    assert hearing(torch.cat([filled, short], dim=1)).shape[-1] == 127


def test_the_image_has_the_orientation_the_size_and_the_channels_asked_for() -> None:
    plain = front_end()(waves(2, 15_600))
    assert plain.shape == (2, 1, 64, 96)
    assert torch.equal(front_end(transposed=True)(waves(2, 15_600)), plain.mT)
    for size, (height, width) in ((32, (32, 32)), ((128, 50), (128, 50))):
        three = front_end(num_channels=3, image_size=size)(waves(2, 15_600))
        assert three.shape == (2, 3, height, width)
        for row in range(2):
            expected = Image.fromarray(plain[row, 0].numpy()).resize((width, height), Image.Resampling.BILINEAR)
            for channel in range(3):
                np.testing.assert_allclose(three[row, channel], np.asarray(expected), atol=1e-4)


def test_masks_are_drawn_for_each_row_in_train_mode_only() -> None:
    hearing = front_end(time_masks=2, time_mask_width=10, freq_masks=1, freq_mask_width=8)
    wave = waves(4, 15_600)
    plain = front_end()(wave)
    assert torch.equal(hearing(wave), plain)
    torch.manual_seed(0)
    changed = (hearing.train()(wave) != plain).squeeze(1)
    assert 0 < changed.all(dim=1).sum(dim=1).max() <= 20
    assert 0 < changed.all(dim=2).sum(dim=1).max() <= 8
    assert len({tuple(row.flatten().tolist()) for row in changed}) == 4
    assert torch.equal(front_end().train()(wave), plain)


@every_family
def test_the_front_end_stays_in_float32_under_autocast(family: str, build: Callable[..., Any]) -> None:
    model = build(family)
    with torch.no_grad():
        plain, logits = model.front_end(waves()), model(waves()).logits
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.front_end(waves()), plain)
            rounded = model(waves()).logits
    assert not torch.equal(rounded.float(), logits)  # it is at work in the image model


# -- which weights it has --------------------------------------------------------------------------------------------


@every_family
def test_one_channel_gives_what_three_equal_ones_gave(
    family: str, tiny_model: Callable[[str], Path], build: Callable[..., Any]
) -> None:
    image_model = transformers.AutoModelForImageClassification.from_pretrained(tiny_model(family))
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    one, three = build(family), build(family, num_channels=3)
    with torch.no_grad():
        expected = image_model(grey.expand(-1, 3, -1, -1), output_hidden_states=True)
        found = one.network(grey, output_hidden_states=True)
        torch.testing.assert_close(three.network(grey.expand(-1, 3, -1, -1)).logits, expected.logits)
        torch.testing.assert_close(one(waves()).logits, three(waves()).logits, rtol=1e-4, atol=1e-4)
    for own, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert expected.logits.std() > 1e-3
    changed = [n for n, p in one.network.named_parameters() if p.shape != image_model.get_parameter(n).shape]
    assert len(changed) == 1


def test_a_checkpoint_of_one_channel_stays_as_it_is(tmp_path: Path) -> None:
    config = transformers.MobileNetV1Config(num_channels=1, depth_multiplier=0.25, dtype="bfloat16")
    image_model = transformers.MobileNetV1ForImageClassification(config)
    image_model.save_pretrained(tmp_path)
    model, _ = from_image_checkpoint(tmp_path)
    assert all(torch.equal(t, model.network.state_dict()[name]) for name, t in image_model.state_dict().items())
    assert model.dtype == torch.float32
    with pytest.raises(ValueError, match="it takes one channel; leave out num_channels"):
        from_image_checkpoint(tmp_path, num_channels=3)


def test_without_labels_the_head_is_kept_and_with_labels_it_is_new(tiny_model: Callable[[str], Path]) -> None:
    source = tiny_model("resnet")
    image_model = transformers.AutoModelForImageClassification.from_pretrained(source)
    kept, info = from_image_checkpoint(source)
    assert torch.equal(kept.network.classifier[1].weight, image_model.classifier[1].weight)
    assert (info["missing_keys"], info["mismatched_keys"]) == (set(), set())
    assert kept.config.id2label == image_model.config.id2label

    new, info = from_image_checkpoint(source, id2label={0: "bark", 1: "chirp"}, label2id={"bark": 0, "chirp": 1})
    assert {name for name, *_ in info["mismatched_keys"]} == set(LayerGroups.of(new).parameters["head"])
    assert new.network.config.id2label == {0: "bark", 1: "chirp"}
    assert new(waves(2, 15_600)).logits.shape == (2, 2)
    loss = new(waves(2, 15_600), labels=torch.tensor([0, 1])).loss
    torch.testing.assert_close(loss, nn.functional.cross_entropy(new(waves(2, 15_600)).logits, torch.tensor([0, 1])))


def test_a_new_head_is_initialised_as_that_of_the_image_model(build: Callable[..., Any]) -> None:
    model = build("vit", num_labels=200)
    bank = model.front_end.filterbank.clone()
    with torch.no_grad():
        model.network.classifier.weight.fill_(7.0)
        model.network.classifier.bias.fill_(7.0)
    heads._initialise_head(model, set(LayerGroups.of(model).parameters["head"]))
    assert model.network.classifier.weight.std().item() == pytest.approx(0.2, rel=0.1)  # of the zoo; 0.02 is the usual
    assert not model.network.classifier.bias.any()
    assert torch.equal(model.front_end.filterbank, bank)


def with_own_front_end(source: Path, folder: Path, **said: Any) -> Path:
    """A copy of an image model with a front end of its own, such as no formula gives."""
    image_model = transformers.AutoModelForImageClassification.from_pretrained(source)
    image_model.save_pretrained(folder)
    drawn = torch.Generator().manual_seed(0)
    tensors = {"window": torch.rand(100, generator=drawn), "mel_filterbank": torch.rand(16, 65, generator=drawn)}
    save_file(tensors, folder / "frontend.safetensors")
    settings = {"sampling_rate": 8000, "n_fft": 128, "win_length": 100, "hop_length": 40, "n_mels": 16, "f_min": 50.0}
    settings |= {"f_max": 4000.0, "spectrogram": "power", "log": "log(mel+0.01)", "patch_frames": 20}
    settings |= {"layout": "(batch,1,frames=20,mels=16)", **said}
    (folder / "frontend_config.json").write_text(json.dumps(settings))
    return folder


def test_a_checkpoint_brings_its_own_front_end(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    source = with_own_front_end(tiny_model("mobilenet_v1"), tmp_path / "source")
    tensors = load_file(source / "frontend.safetensors")
    model, _ = from_image_checkpoint(source, num_labels=3)
    model.save_pretrained(tmp_path / "saved")
    again = Auto.from_pretrained(tmp_path / "saved")
    for found in (model, again):
        assert torch.equal(found.front_end.window, tensors["window"])
        assert torch.equal(found.front_end.filterbank, tensors["mel_filterbank"])
        config = found.config
        assert (config.power, config.log_offset, config.transposed, config.sampling_rate) == (2, 0.01, True, 8000)
        assert (config.hop_length, config.window_samples) == (40, 100 + 19 * 40)
        assert found.front_end(waves(2, config.window_samples)).shape == (2, 1, 20, 16)
    spectrum = torch.fft.rfft(waves(1, 860)[0, :100] * tensors["window"], 128).abs() ** 2
    first_frame = torch.log(tensors["mel_filterbank"] @ spectrum + 0.01)
    torch.testing.assert_close(again.front_end(waves(1, 860))[0, 0, 0], first_frame)


# -- how the machinery takes it --------------------------------------------------------------------------------------


@every_family
def test_layer_groups_are_those_of_the_image_model(
    family: str, tiny_model: Callable[[str], Path], build: Callable[..., Any]
) -> None:
    image_model = transformers.AutoModelForImageClassification.from_pretrained(tiny_model(family))
    expected, model = LayerGroups.of(image_model), build(family)
    groups = LayerGroups.of(model)
    assert groups.backbone == f"network.{expected.backbone}"
    assert groups.parameters == {
        group: tuple(f"network.{name}" for name in names) for group, names in expected.parameters.items()
    }
    assert sorted(groups.group_of_parameter()) == sorted(name for name, _ in model.named_parameters())
    assert [*model.front_end.parameters()] == []


@every_family
def test_a_phase_of_the_head_alone_is_cut_at_the_head(family: str, build: Callable[..., Any]) -> None:
    """And its replay on stored activations gives the very logits."""
    model = build(family, time_masks=1, time_mask_width=8)
    groups = LayerGroups.of(model)
    freeze(model, groups, "head")
    set_modes(model, groups, "head")
    cut = find_cut(model, [{"input_values": waves(2)}, {"input_values": waves(3)}], needs_inputs=False)
    assert cut.module.startswith("network.")
    assert not cut.module.startswith(f"{groups.backbone}.")
    assert "front_end" in cut.outputs
    assert not draws_before(model, cut, {"input_values": waves()})
    inputs = {"input_values": waves(4, seed=1)}
    with torch.no_grad():
        stored = capture(model, cut, inputs)
        expected = model(**inputs).logits
        torch.testing.assert_close(Replay(model, cut).eval()(features=stored).logits, expected, rtol=0, atol=0)
    assert (expected.std(dim=0) > 0).all()


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_activations_are_checkpointed_where_the_image_model_can(family: str, build: Callable[..., Any]) -> None:
    model = build(family)
    model.train()
    model(waves()).logits.sum().backward()
    plain = model.network.base_model.get_parameter(next(n for n, _ in model.base_model.named_parameters())).grad.clone()
    model.zero_grad()
    if family == "resnet":
        with pytest.raises(ValueError, match="does not support"):
            model.gradient_checkpointing_enable()
        return
    model.gradient_checkpointing_enable()
    assert model.network.is_gradient_checkpointing
    model(waves()).logits.sum().backward()
    torch.testing.assert_close(next(model.base_model.parameters()).grad, plain)


# -- how it is saved -------------------------------------------------------------------------------------------------


@every_family
def test_what_is_saved_loads_again(family: str, build: Callable[..., Any], tmp_path: Path) -> None:
    model = build(family, id2label={0: "a", 1: "b", 2: "c"}, normalisation="row", transposed=True)
    model.save_pretrained(tmp_path)
    again, info = Auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert type(again) is SpectrogramForAudioClassification
    with torch.no_grad():
        torch.testing.assert_close(again(waves()).logits, model(waves()).logits, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert again.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    assert type(again.config.image_config) is type(again.network.config)
    assert again.network.config.id2label == {0: "a", 1: "b", 2: "c"}
    written = (tmp_path / "config.json").read_text()
    assert "/" not in written  # no path of this machine


def test_the_inner_settings_that_are_changed_are_saved(build: Callable[..., Any], tmp_path: Path) -> None:
    model = build("mobilenet_v1")
    model.base_model.config.classifier_dropout_prob = 0.25
    model.save_pretrained(tmp_path)
    assert Auto.from_pretrained(tmp_path).network.dropout.p == 0.25


def test_in_bfloat16_the_front_end_stays_exact(build: Callable[..., Any], tmp_path: Path) -> None:
    model = build("resnet")
    model.save_pretrained(tmp_path)
    half = Auto.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.network.dtype == torch.bfloat16
    assert torch.equal(half.front_end(waves()), model.front_end(waves()))
    with torch.no_grad():
        torch.testing.assert_close(half(waves()).logits.float(), model(waves()).logits, rtol=0.1, atol=0.05)


def test_a_skeleton_has_no_weights_and_a_checkpoint_without_front_end_gets_one(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    model = build("resnet")
    with torch.device("meta"):
        skeleton = Auto.from_config(model.config)
    assert {tensor.device.type for tensor in skeleton.state_dict().values()} == {"meta"}
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("front_end")}
    assert len(tensors) - len(kept) == 2
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(Auto.from_pretrained(tmp_path).front_end(waves()), model.front_end(waves()))


def test_a_portable_model_loads_without_hftl(build: Callable[..., Any], tmp_path: Path) -> None:
    model, folder = build("mobilenet_v2"), tmp_path / "model"
    model.save_pretrained(folder)
    assert (folder / "spectrogram.py").read_text() == Path(spectrogram.__file__).read_text()
    save_file({"waves": waves(), "logits": model(waves()).logits.detach()}, tmp_path / "expected.safetensors")
    asked = f"""{WITHOUT_NATIVE_PARTS}
sys.modules["hftl"] = None
import torch, transformers
from safetensors.torch import load_file
expected = load_file({str(tmp_path / "expected.safetensors")!r})
model = transformers.AutoModelForAudioClassification.from_pretrained({str(folder)!r}, trust_remote_code=True)
torch.testing.assert_close(model(expected["waves"]).logits, expected["logits"], rtol=1e-4, atol=1e-5)
print(type(model).__module__, type(model.config).__module__)
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0].startswith("transformers_modules.")
    assert done.stdout.split()[1].startswith("transformers_modules.")
    assert type(Auto.from_pretrained(folder)) is SpectrogramForAudioClassification  # here it is hftl's own


def test_labels_have_their_ids_in_the_configuration(build: Callable[..., Any], tmp_path: Path) -> None:
    model = build("mobilenet_v2", id2label={0: "crow", 1: "jay"})
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["label2id"] == Auto.from_pretrained(tmp_path).config.label2id == {"crow": 0, "jay": 1}


def test_the_pipeline_takes_it(build: Callable[..., Any], tmp_path: Path) -> None:
    model = build("mobilenet_v1", id2label={0: "a", 1: "b"}, sampling_rate=8000, f_max=None)
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=8000, padding_value=0.0, do_normalize=False, return_attention_mask=False
    ).save_pretrained(tmp_path)
    wave = waves(1, 700)
    answers = transformers.pipeline("audio-classification", str(tmp_path))(wave[0].numpy())
    expected = model(wave).logits[0].softmax(dim=0).tolist()
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip("ab", expected, strict=True))
    )


# -- what is wrong with it -------------------------------------------------------------------------------------------


def test_what_is_no_image_classifier_gets_one_line(
    tiny_model: Callable[[str], Path], build: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="image_config: it is missing"):
        SpectrogramForAudioClassification(SpectrogramConfig())
    with pytest.raises(ValueError, match="a 'bert' model is no image classifier"):
        from_image_checkpoint(tiny_model("bert"))
    build("resnet").save_pretrained(tmp_path / "sound")
    with pytest.raises(ValueError, match="a 'spectrogram_cnn' model is no image classifier"):
        from_image_checkpoint(tmp_path / "sound")
    with pytest.raises(ValueError, match=r"input_values: shape \(1, 2, 1600\)"):
        build("resnet")(waves().unsqueeze(0))
    own = with_own_front_end(tiny_model("mobilenet_v1"), tmp_path / "own")
    with pytest.raises(ValueError, match=r"n_mels: .* brings its own front end, made with 16; leave n_mels out"):
        from_image_checkpoint(own, n_mels=64)
    strange = with_own_front_end(tiny_model("mobilenet_v1"), tmp_path / "strange", log="log10(mel)")
    with pytest.raises(ValueError, match=r"log 'log10\(mel\)' of spectrogram 'power' is not understood"):
        from_image_checkpoint(strange)


@pytest.mark.skipif("timm-vgg16" not in IMAGE, reason="timm is not installed")
def test_timm_models_take_three_channels(build: Callable[..., Any], tmp_path: Path) -> None:
    family = "timm-mobilenetv3_small_100"
    with pytest.raises(ValueError, match="timm_wrapper has no setting for the channels; use num_channels=3"):
        build(family)
    model = build(family, num_channels=3, id2label={0: "a", 1: "b"})
    assert LayerGroups.of(model).backbone == "network.timm_model"
    model.save_pretrained(tmp_path)
    again = Auto.from_pretrained(tmp_path)
    assert torch.equal(again(waves()).logits, model(waves()).logits)
    assert again.network.config.id2label == {0: "a", 1: "b"}


# -- real weights ----------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_yamnet_hears_speech_as_speech(shared: Path) -> None:
    source = shared / "models" / "yamnet_mobilenet_v1"
    model, _ = from_image_checkpoint(source)
    tensors = load_file(source / "frontend.safetensors")
    assert torch.equal(model.front_end.filterbank, tensors["mel_filterbank"])
    assert torch.equal(model.front_end.window, tensors["window"])
    assert model.config.window_samples == 15_600
    files = (str(shared / "data" / "fsdd" / "train" / f"{digit}_george_0.wav") for digit in range(10))
    spoken = np.stack([fitted(read_sound(file, 16_000, 0.0, 0.975), 15_600) for file in files])
    others = torch.stack([torch.zeros(15_600), torch.sin(torch.arange(15_600) * 0.4)])
    assert model(torch.from_numpy(spoken)).logits.argmax(dim=1).eq(0).all()  # AudioSet's class of speech
    assert model(others).logits.argmax(dim=1).gt(0).all()
