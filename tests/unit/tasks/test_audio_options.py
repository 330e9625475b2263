"""Options of audio classification that cannot be, or count for nothing: one line, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from quick_runs import quick
from zoo import SIZE, SMALL_MEL

from hftl import Phase, Recipe, Trainer
from hftl.recipe.recipe import from_dict, to_dict
from hftl.tasks import AudioClassification, find
from hftl.tasks.audio_classification import Mel

pytest.importorskip("soundfile")
pytest.importorskip("torchaudio")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seconds": 0.0}, ["seconds: 0.0", "between 0.01 and 3600"]),
        ({"overlap": 1.0}, ["overlap: 1.0", "at most 0.95"]),
        ({"gain": -1.0}, ["gain: -1.0", "at least 0"]),
        ({"gain": float("inf")}, ["gain: inf", "at least 0"]),
        ({"shift": 1.5}, ["shift: 1.5", "at most 1"]),
        ({"mixup": float("nan")}, ["mixup: nan", "at least 0"]),
        ({"noise_decibels": (9.0, 3.0)}, ["noise_decibels: 9.0 is more than 3.0"]),
        ({"noise_decibels": (float("nan"), 3.0)}, ["noise_decibels: nan and 3.0", "use numbers"]),
    ],
)
def test_bad_options_get_one_line(options: dict[str, Any], words: list[str], one_line_error: Any) -> None:
    with one_line_error(*words):
        AudioClassification("unused", **options)


@pytest.mark.parametrize(
    ("family", "mel", "words"),
    [
        ("mel-vit", SMALL_MEL, ["it takes no spectrogram of 32 x 28", f"--task.mel.image-size {SIZE} {SIZE}"]),
        ("mel-resnet", {**SMALL_MEL, "hop_length": 0}, ["--model", "hop_length: 0 is no step"]),
        ("mel-resnet", {**SMALL_MEL, "f_max": 9000.0}, ["--model", "9000.0 Hz is no range"]),
        (
            "mel-resnet",
            {**SMALL_MEL, "time_masks": 1, "time_mask_width": 29},
            ["mel.time_mask_width: 29 is more than the 28 frames of a window of 0.3 s"],
        ),
        ("mel-mobilenet_v1", {"n_mels": 64}, ["--model", "brings its own front end", "leave n_mels out"]),
    ],
)
def test_bad_spectrograms_get_one_line_before_anything_is_written(
    family: str,
    mel: dict[str, Any],
    words: list[str],
    tiny_model: Callable[[str], Path],
    calls: Path,
    tmp_path: Path,
    one_line_error: Any,
) -> None:
    task = AudioClassification(str(calls), mel=Mel(**mel), seconds=0.3)
    with one_line_error(*words):
        Trainer(quick(task, tiny_model(family), tmp_path / "run", phases=(Phase("head", 1),))).fit(display=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "empty"}, ["--task.noise", "no sound files in it"]),
        ({"noise": " "}, ["--task.noise: it is blank"]),
        ({"noise": "bad"}, ["--task.noise", "none of its recordings", "bad.wav: not a sound that libsndfile knows"]),
        ({"background": ""}, ["--task.background: it is blank"]),
        ({"seconds": 61.0}, ["seconds: 61", "the longest recording lasts 0.9 s", "use about 1"]),
    ],
)
def test_what_a_later_phase_would_stop_at_is_said_before_the_first(
    options: dict[str, Any],
    words: list[str],
    tiny_model: Callable[[str], Path],
    calls: Path,
    tmp_path: Path,
    one_line_error: Any,
) -> None:
    for name in ("empty", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "bad.wav").write_text("no sound")
    if options.get("noise", "").strip():
        options = {"noise": str(tmp_path / options["noise"])}
    task = AudioClassification(str(calls), mel=Mel(**SMALL_MEL), **{"seconds": 0.3, **options})
    with one_line_error(*words):
        Trainer(
            quick(task, tiny_model("mel-resnet"), tmp_path / "run", phases=(Phase("head", 1), Phase("all", 1)))
        ).fit(display=False)
    assert not (tmp_path / "run").exists()


def test_settings_of_the_spectrogram_that_count_for_nothing_are_noted(
    tiny_model: Callable[[str], Path], load_tiny: Callable[..., Any]
) -> None:
    def notes(family: str, **mel: Any) -> tuple[str, ...]:
        task = AudioClassification("unused", mel=Mel(**mel), seconds=0.3)
        model = str(tiny_model(family))
        return task.load_model(model, ("a", "b"), task.load_processor(model, False), False, 0.1, False).notes

    note = "mel: n_mels, f_min is not used, for the model has a front end of its own"
    assert note in notes("wav2vec2", n_mels=64, f_min=0.0)
    assert not any("mel" in each for each in (*notes("wav2vec2"), *notes("mel-resnet", **SMALL_MEL)))
    (narrow,) = (each for each in notes("mel-resnet", **{**SMALL_MEL, "n_mels": 300}) if "mel" in each)
    assert narrow.endswith("of 300 bands have no frequency in them; lower n_mels or raise n_fft")


def test_what_hears_nothing_gets_one_line(
    tiny_model: Callable[[str], Path], calls: Path, tmp_path: Path, one_line_error: Any
) -> None:
    task = AudioClassification(str(calls))
    with one_line_error("--model", "'bert' model does not fit this task", "AutoModelForAudioClassification"):
        task.load_processor(str(tiny_model("bert")), False)
    bare = tmp_path / "bare"
    transformers.AutoModelForAudioClassification.from_pretrained(tiny_model("wav2vec2")).save_pretrained(bare)
    with one_line_error("--model", "no feature extractor loads from it"):
        task.load_processor(str(bare), False)


def test_a_recipe_keeps_the_spectrogram_and_names_what_is_misspelt_in_it(one_line_error: Any) -> None:
    recipe = Recipe(AudioClassification("calls", mel=Mel(n_mels=64, image_size=(8, 9))), "some/model")
    assert from_dict(to_dict(recipe), find, "recipe.yaml") == recipe
    plain = to_dict(recipe)
    plain["task"]["mel"]["n_mel"] = plain["task"]["mel"].pop("n_mels")
    with one_line_error("'task.mel.n_mel' is no option", "did you mean 'n_mels'"):
        from_dict(plain, find, "recipe.yaml")


def test_without_the_libraries_of_sound_one_line_says_what_to_install(
    calls: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, one_line_error: Callable[..., Any]
) -> None:
    for missing in ("soundfile", "torchaudio"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, missing, None)
            with one_line_error("soundfile and torchaudio are needed", "pip install 'hftl[audio]'"):
                AudioClassification(str(calls)).load_processor(str(tiny_model("wav2vec2")), False)
