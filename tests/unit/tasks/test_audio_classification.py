"""Recordings to labels: every kind of model, windows and how they are joined, random views, and what is said."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Audio, Dataset
from quick_runs import quick
from sound_files import noise, soundfile, torchaudio
from stored_runs import Ran, assert_close
from stored_runs import run as run_stored
from zoo import AUDIO, MELS, SIZE, SMALL_MEL, SOUND_RATE

from hftl import Phase, Predictor, Recipe, Trainer, strategies
from hftl.audio.spectrogram import SpectrogramConfig, SpectrogramForAudioClassification
from hftl.cli import main
from hftl.model.layers import LayerGroups
from hftl.prepare import prepare
from hftl.records import RunStarted
from hftl.runtime.runtime import Runtime
from hftl.tasks import AudioClassification
from hftl.tasks.audio_classification import Mel

HEAD, ALL = Phase("head", 1, 1e-2), Phase("all", 1, 1e-3)
ADAPT = Phase("all", 2, 1e-3, train="lora", batch_norm="keep", head_scale=1.0)
LONG = "validation/tit/1.wav"
"""Of 0.9 s, where the windows are of 0.3 s."""

TinyModel = Callable[[str], Path]
every_family = pytest.mark.parametrize("family", [*AUDIO, *MELS])
one_of_each_kind = pytest.mark.parametrize("family", ["ast", "wav2vec2", "whisper", "mel-resnet", "mel-mobilenet_v1"])


def task_of(family: str, data: Path, **options: Any) -> AudioClassification:
    """Of windows of 0.3 s at most, but for Whisper, which hears a second."""
    mel = Mel(**MELS[family][1]) if family in MELS else Mel()
    seconds = {} if family in ("ast", "whisper", "mel-mobilenet_v1") else {"seconds": 0.3}
    return AudioClassification(str(data), mel=mel, **{**seconds, **options})


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.report.curves.draw", lambda folder: None)  # the same for all, and slow


@pytest.fixture(scope="module")
def ended(
    tiny_model: TinyModel, calls: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Ran]]:
    """Runs of a head and then everything, by family; each once."""

    @cache
    def make(family: str) -> Ran:
        folder = tmp_path_factory.mktemp(f"run-{family}")
        recipe = quick(task_of(family, calls), tiny_model(family), folder / "run", phases=(HEAD, ALL))
        return run_stored(recipe, folder / "stores")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hftl.report.curves.draw", lambda folder: None)
        yield make


def folder_of(ran: Ran) -> Path:
    return Path(ran.trainer.recipe.output_dir or "")


def samples_of(path: Path) -> np.ndarray:
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == SOUND_RATE
    return wave


# -- every kind of model ---------------------------------------------------------------------------------------------


@every_family
def test_a_head_on_stored_features_learns_what_it_learns_without(
    family: str, tiny_model: TinyModel, calls: Path, tmp_path: Path
) -> None:
    def once(name: str, use: bool) -> Ran:
        recipe = quick(task_of(family, calls), tiny_model(family), tmp_path / name, phases=(HEAD,))
        return run_stored(recipe, tmp_path / "stores", use)

    plain, stored = once("plain", False), once("stored", True)
    assert (plain.stored, stored.notes) == ([], [])
    assert stored.computed == [["train", "validation", "test"]]
    assert_close(plain, stored)


@one_of_each_kind
def test_the_predictor_scores_as_the_run_and_takes_files_bytes_and_samples(
    family: str, ended: Callable[[str], Ran], calls: Path
) -> None:
    ran = ended(family)
    predictor = Predictor(folder_of(ran))
    assert predictor.evaluate("validation") == pytest.approx(ran.scores["validation"], abs=1e-4)
    path = calls / "test" / "owl" / "0.wav"
    given = [str(path), path.read_bytes(), {"array": samples_of(path), "sampling_rate": SOUND_RATE}]
    file, encoded, array = predictor(given)
    assert (file["name"], array["name"]) == (str(path), "sound in memory")
    assert encoded["scores"] == file["scores"]
    assert array["scores"] == pytest.approx(file["scores"], abs=1e-5)
    assert sum(file["scores"].values()) == pytest.approx(1)
    (other,) = predictor([str(calls / "test" / "wren" / "0.wav")])
    assert other["scores"] != pytest.approx(file["scores"], abs=1e-5)  # it does hear


def test_samples_at_another_rate_are_resampled(ended: Callable[[str], Ran], calls: Path) -> None:
    wave = torch.from_numpy(samples_of(calls / "test" / "owl" / "0.wav"))
    twice = torchaudio.functional.resample(wave, 1, 2).numpy()
    predictor = Predictor(folder_of(ended("mel-resnet")))
    plain, again = predictor(
        [{"array": wave.numpy(), "sampling_rate": SOUND_RATE}, {"array": twice, "sampling_rate": 2 * SOUND_RATE}]
    )
    assert again["scores"] == pytest.approx(plain["scores"], abs=0.02)


def test_folders_and_tables_of_recordings_are_predicted_and_bad_ones_listed(
    ended: Callable[[str], Ran], calls: Path, tmp_path: Path
) -> None:
    predictor = Predictor(folder_of(ended("mel-resnet")))
    answers = predictor(str(calls / "test"))
    assert [answer["name"] for answer in answers] == sorted(map(str, (calls / "test").rglob("*.wav")))
    (tmp_path / "bad.wav").write_text("<html>")
    table = tmp_path / "some.csv"
    table.write_text(f"path\n{calls / 'test' / 'owl' / '0.wav'}\nbad.wav\n")
    (answer,) = predictor(str(table))
    assert answer["scores"] == pytest.approx(answers[0]["scores"], abs=1e-6)
    assert [bad.name for bad in predictor.bad_rows] == [str(tmp_path / "bad.wav")]


def test_a_table_of_parts_of_recordings_is_not_predicted(
    ended: Callable[[str], Ran], calls: Path, tmp_path: Path, one_line_error: Any
) -> None:
    path, table = calls / "test" / "owl" / "0.wav", tmp_path / "some.csv"
    table.write_text(f"path,start_time,end_time\n{path},0,0.1\n{path},0.1,0.2\n")
    with one_line_error(str(table), "parts of recordings (columns 'start_time', 'end_time')"):
        Predictor(folder_of(ended("mel-resnet")))(str(table))


def test_a_table_of_sounds_that_datasets_would_decode_is_predicted(
    ended: Callable[[str], Ran], calls: Path, tmp_path: Path
) -> None:
    from datasets import Audio, Dataset

    path = calls / "test" / "owl" / "0.wav"
    rows = Dataset.from_dict({"audio": [{"bytes": path.read_bytes(), "path": None}]})
    rows.cast_column("audio", Audio()).to_parquet(tmp_path / "a.parquet")
    predictor = Predictor(folder_of(ended("mel-resnet")))
    (answer,), (expected,) = predictor(str(tmp_path / "a.parquet")), predictor(str(path))
    assert answer["scores"] == expected["scores"]


# -- windows ---------------------------------------------------------------------------------------------------------


@one_of_each_kind
@pytest.mark.parametrize("combine", ["mean", "max"])
def test_a_longer_recording_is_scored_over_all_of_its_windows(
    family: str, combine: str, ended: Callable[[str], Ran], calls: Path
) -> None:
    predictor = Predictor(folder_of(ended(family)))
    task = dataclasses.replace(predictor.recipe.task, combine=combine, overlap=0.5)
    predictor.recipe = dataclasses.replace(predictor.recipe, task=task)
    rate, wave = predictor.processor.sampling_rate, samples_of(calls / LONG)
    if rate != SOUND_RATE:
        wave = torchaudio.functional.resample(torch.from_numpy(wave), SOUND_RATE, rate).numpy()
    length = round(task.seconds * rate)
    starts = [*range(0, max(len(wave) - length, 0) + 1, length // 2)]
    if len(wave) - length - starts[-1] > 0.05 * length:
        starts.append(len(wave) - length)
    windows = [wave[start : start + length] for start in starts]
    windows = [np.pad(window, (0, length - len(window))) for window in windows]
    with torch.no_grad():
        logits = predictor.model(**predictor.processor(windows, sampling_rate=rate, return_tensors="pt")).logits
    each = logits.double().softmax(dim=1)
    joined = each.mean(dim=0) if combine == "mean" else each.amax(dim=0)
    assert len(windows) == 1 if family == "whisper" else len(windows) > 3
    (answer,) = predictor([str(calls / LONG)])
    expected = dict(zip(predictor.labels, (joined / joined.sum()).tolist(), strict=True))
    assert answer["scores"] == pytest.approx(expected, abs=1e-5)


def test_any_number_of_labels_are_joined_by_their_own_probabilities(calls: Path) -> None:
    from datasets import Dataset

    task = task_of("wav2vec2", calls, combine="max")
    rows = Dataset.from_dict({"seconds": [0.6, 0.1], "label": [[True, False], [False, True]]})
    outputs = {"logits": np.array([[2.0, -40.0], [1.0, 3.0], [-1.0, 50.0]], dtype=np.float32)}
    settings = {"problem_type": "multi_label_classification", "thresholds": [0.5, 0.5]}
    first, second = task.answers(outputs, rows, ("a", "b"), settings)
    assert first["scores"] == pytest.approx({"b": 1 / (1 + np.exp(-3)), "a": 1 / (1 + np.exp(-2))})
    assert second["scores"] == pytest.approx({"b": 1.0, "a": 1 / (1 + np.exp(1))})
    assert (first["labels"], second["labels"]) == (["b", "a"], ["b"])
    assert task.score(outputs, rows, settings)["micro_f1"] == pytest.approx(4 / 5)
    assert task.tune(outputs, rows)["thresholds"] == [0.5, 0.5]  # by recordings: windows have no labels


def test_the_window_is_what_the_model_was_made_for_or_the_longest_recording(
    calls: Path, ended: Callable[[str], Ran], tiny_model: TinyModel
) -> None:
    found = {family: ended(family).trainer.recipe.task.seconds for family in ("ast", "whisper", "mel-mobilenet_v1")}
    assert found == {"ast": 0.3, "whisper": 1.0, "mel-mobilenet_v1": pytest.approx((200 + 27 * 80) / SOUND_RATE)}
    task = AudioClassification(str(calls))
    splits = task.load_data(0, str(tiny_model("wav2vec2")), False, False)
    processor = task.load_processor(str(tiny_model("wav2vec2")), False)
    assert task.resolved(splits, processor).seconds == 0.9
    assert len(task_of("wav2vec2", calls).examples(splits.validation, processor, False)) == 9 + 2


@pytest.mark.parametrize(
    ("family", "most"), [("ast", "0.3"), ("whisper", "1"), ("wav2vec2", None), ("mel-mobilenet_v1", None)]
)
def test_a_window_that_the_feature_extractor_would_cut_gets_one_line(
    family: str, most: str | None, tiny_model: TinyModel, calls: Path, one_line_error: Any
) -> None:
    task = task_of(family, calls, seconds=1.5)
    processor = task.load_processor(str(tiny_model(family)), False)
    splits = task.load_data(0, "unused", False, False)
    if most is None:
        assert task.resolved(splits, processor) is task
        return
    with one_line_error("--task.seconds 1.5", f"takes {most} s", f"give {most} or less", "in several windows"):
        task.resolved(splits, processor)
    fits = dataclasses.replace(task, seconds=float(most))
    assert fits.resolved(splits, processor) is fits


# -- waveform models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("mel-resnet", {}, "next to nothing"),
        ("mel-resnet", {"mixup": 0.2}, "with mixup"),
        ("mel-resnet", {"gain": 0.0}, ""),
        ("mel-resnet", {"mel": Mel(**SMALL_MEL, normalisation="none")}, ""),
        ("mel-mobilenet_v1", {}, ""),
        ("wav2vec2", {}, "next to nothing"),
        ("whisper", {}, ""),
        ("ast", {}, ""),
    ],
)
def test_gain_that_the_model_does_not_hear_is_spoken_of(
    family: str, options: dict[str, Any], said: str, tiny_model: TinyModel, calls: Path
) -> None:
    task = dataclasses.replace(task_of(family, calls), **{"seconds": 0.3, "gain": 6.0, **options})
    model = str(tiny_model(family))
    processor = task.load_processor(model, False)
    notes = task.load_model(model, ["owl", "tit"], processor, False, 0.0, False).notes
    told = [note for note in notes if note.startswith("gain")]
    assert len(told) == bool(said)
    assert said in "".join(told)


def test_what_was_changed_for_short_windows_is_noted(ended: Callable[[str], Ran]) -> None:
    (started,) = (record for record in ended("wav2vec2").records if isinstance(record, RunStarted))
    assert [note.split(":")[0] for note in started.notes if "mask" in note or "layerdrop" in note] == [
        "layerdrop",
        "mask_time_prob",
    ]


@pytest.mark.parametrize(("family", "group"), [("wav2vec2", "stem"), ("wav2vec2-layer-norm", "neck")])
def test_the_encoders_norm_lies_where_it_is_used(family: str, group: str, load_tiny: Callable[..., Any]) -> None:
    groups = LayerGroups.of(load_tiny(family).model)
    assert "wav2vec2.encoder.layer_norm.weight" in groups.parameters[group]
    assert len(groups.parameters["neck"]) == (2 if group == "neck" else 0)


def test_an_image_models_own_groups_hold_behind_a_spectrogram() -> None:
    """PoolFormer keeps the patches of its later blocks in a list of their own."""
    image = transformers.PoolFormerConfig(hidden_sizes=[4] * 4, depths=[1] * 4)
    config = SpectrogramConfig(image_config=image, window_seconds=0.3)
    groups = LayerGroups.of(SpectrogramForAudioClassification(config)).group_of_parameter()
    patches = {name: group for name, group in groups.items() if ".patch_embeddings." in name}
    assert {group for name, group in patches.items() if ".patch_embeddings.2." in name} == {"block 2"}
    assert {group for name, group in patches.items() if ".patch_embeddings.0." in name} == {"stem"}


# -- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["wav2vec2", "ast", "whisper", "mel-resnet"])
def test_adapters_are_the_result_where_the_checkpoint_is_of_the_models_kind(
    family: str, tiny_model: TinyModel, calls: Path, tmp_path: Path
) -> None:
    phases = (Phase("head", 1, 1e-6), ADAPT)
    recipe = quick(task_of(family, calls), tiny_model(family), tmp_path / "run", phases=phases, best_by="loss")
    trainer = Trainer(recipe)
    records = [*trainer.run()]
    end = records[-1]
    assert end.best_phase == 1
    assert end.saved == ("model" if family in MELS else "adapter")
    note = "adapters are merged in the end, for the checkpoint is of another kind than the model"
    assert (note in records[0].notes) == (family in MELS)
    again = Predictor(tmp_path / "run").evaluate("validation")
    assert again == pytest.approx(end.scores["validation"], abs=1e-4)


@pytest.mark.parametrize(("family", "far"), [("mel-resnet", True), ("mel-mobilenet_v1", False), ("ast", False)])
def test_a_model_of_images_is_told_apart_from_one_of_sounds(
    family: str, far: bool, tiny_model: TinyModel, calls: Path
) -> None:
    """By the front end beside its weights."""
    recipe = Recipe(task_of(family, calls), str(tiny_model(family)), precision="fp32")
    ready = prepare(recipe, Runtime("fp32"))
    head, deeper = ready.recipe.phases
    assert deeper.lr == pytest.approx(1e-4 if family == "ast" else 1e-3)
    assert (head.batch_norm, deeper.batch_norm) == ("keep", "update" if far else "keep")
    assert any("--phases full" in note for note in ready.loaded.notes) == far
    ready = prepare(dataclasses.replace(recipe, phases=strategies.full()), Runtime("fp32"))
    assert not any("--phases full" in note for note in ready.loaded.notes)


# -- the card --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ast", "mel-resnet", "wav2vec2"])
def test_what_the_card_tells_people_to_type_gives_the_answers_of_the_predictor(
    family: str, ended: Callable[[str], Ran], tiny_model: TinyModel, calls: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    if family == "wav2vec2":  # a card of adapters
        phases = (Phase("head", 1, 1e-6), ADAPT)
        recipe = quick(task_of(family, calls), tiny_model(family), tmp_path / "run", phases=phases, best_by="loss")
        Trainer(recipe).fit(display=False)
        folder = tmp_path / "run"
    else:
        folder = folder_of(ended(family))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert ("hftl.audio.spectrogram" in card) == ("trust_remote_code=True" in card) == (family in MELS)
    assert "windows of 0.3 s" in " ".join(card.split())
    # As long as a window, so that pipeline and predictor hear the same; as samples, for there may be no ffmpeg.
    wave = noise(SOUND_RATE, 0.3)[:, 0]
    (expected,) = Predictor(folder)([{"array": wave, "sampling_rate": SOUND_RATE}])
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    model = tiny_model(family)
    code = snippet.replace(f'"{model.name}"', f'"{model}"').replace('"recording.wav"', "given()")
    monkeypatch.chdir(folder)
    exec(code, shown := {"given": lambda: {"raw": wave, "sampling_rate": SOUND_RATE}})
    answers = shown["answer"]({"raw": wave, "sampling_rate": SOUND_RATE})
    assert {each["label"]: each["score"] for each in answers} == pytest.approx(expected["scores"], abs=1e-4)


# -- what is wrong ---------------------------------------------------------------------------------------------------


def test_rows_without_a_sound_and_strange_objects_to_predict(
    ended: Callable[[str], Ran], calls: Path, one_line_error: Any
) -> None:
    predictor = Predictor(folder_of(ended("mel-resnet")))
    path = str(calls / LONG)
    rows = Dataset.from_dict({"audio": [path, None]}).cast_column("audio", Audio(decode=False))
    (answer,) = predictor(rows)
    assert answer == predictor(path)[0] == predictor([None, path])[0]
    assert [row.reason for row in predictor.bad_rows] == ["no sound"]
    for strange in (np.zeros(800), 3):
        with one_line_error(f"a {type(strange).__name__} is no recording", "sampling_rate"):
            predictor([strange])


def test_silence_to_predict_gets_one_line(ended: Callable[[str], Ran], one_line_error: Any) -> None:
    predictor = Predictor(folder_of(ended("mel-resnet")))
    with one_line_error("no recording to predict", "silent"):
        predictor([{"array": np.zeros(800), "sampling_rate": SOUND_RATE}])
    with one_line_error("no recording to predict", "nowhere.wav: no such file"):
        predictor("nowhere.wav")
    with one_line_error("no recording to predict in", "model"):
        predictor(str(folder_of(ended("mel-resnet")) / "model"))


def test_from_the_command_line(tiny_model: TinyModel, calls: Path, tmp_path: Path, capsys: Any) -> None:
    options = [f"--task.mel.{name.replace('_', '-')}={value}" for name, value in SMALL_MEL.items()]
    size = ["--task.mel.image-size", str(SIZE), str(SIZE), "--task.seconds", "0.3"]
    run = ["--phases", "linear-probe", "--phases.0.epochs", "1", "--output-dir", str(tmp_path / "run")]
    named = ["--task.data", str(calls), "--model", str(tiny_model("vit"))]
    main(["fit", "audio-classification", *named, *options, *size, *run])
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["model_type"], config["image_size"], config["n_mels"]) == ("spectrogram_cnn", [SIZE, SIZE], 32)
    capsys.readouterr()
    main(["predict", str(tmp_path / "run"), str(calls / "test" / "owl" / "0.wav")])
    assert re.search(r"(owl|tit|wren) +0\.\d", capsys.readouterr().out)
