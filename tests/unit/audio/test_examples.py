"""Random views of recordings, and blends of two."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from quick_runs import quick
from sound_files import noise, soundfile
from zoo import SOUND_RATE

from hftl import Phase
from hftl.audio import extractors, overviews
from hftl.audio.spectrogram import LogMel, SpectrogramConfig
from hftl.data.batches import Batch
from hftl.prepare import prepare
from hftl.recipe.recipe import Store
from hftl.runtime.runtime import Runtime
from hftl.tasks import AudioClassification


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noises")
    for number in range(2):
        soundfile.write(folder / f"{number}.wav", noise(SOUND_RATE, 0.5, seed=number), SOUND_RATE)
    return folder


def training(calls: Path, views: bool = True, **options: Any) -> Any:
    task = AudioClassification(str(calls), **{"seconds": 0.3, "augment": "none", **options})
    splits = task.load_data(0, "unused", False, False)
    return task.examples(splits.train, extractors.plain(SOUND_RATE, None), views)


VIEWS = {
    "crop": {"augment": "crop", "seconds": 0.1},
    "silence around": {"augment": "crop", "seconds": 0.5},
    "gain": {"gain": 6.0},
    "shift": {"shift": 0.2},
    "noise": {"noise": "noises"},
    "mixup": {"mixup": 0.4},
    "all": {"augment": "crop", "gain": 6.0, "shift": 0.2, "noise": "noises", "mixup": 0.4},
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_pure_functions_of_seed_and_window(name: str, calls: Path, noises: Path) -> None:
    options = dict(VIEWS[name])
    if "noise" in options:
        options["noise"] = str(noises)
    examples, plain = training(calls, **options), training(calls, views=False, **options)
    assert (examples.random, plain.random) == (True, False)
    one, rows = examples.at((0, 1, 2)), [7, 0, 3, *range(8, 17)]
    batch, alone = one.__getitems__(rows), one.__getitems__([3])
    waves = batch.inputs["input_values"]
    assert torch.equal(waves[2], alone.inputs["input_values"][0])
    assert torch.equal(batch.targets[2], alone.targets[0])
    again, other = (examples.at(seed).__getitems__(rows).inputs["input_values"] for seed in ((0, 1, 2), (0, 1, 3)))
    assert torch.equal(again, waves)
    assert not torch.equal(other, waves)
    assert (waves != plain.__getitems__(rows).inputs["input_values"]).any(dim=1).sum() >= 2  # noise: under half
    assert waves.shape == (12, round(examples.seconds * SOUND_RATE))
    digests = {each.digest for each in (one, examples.at((0, 1, 3)), plain)}
    assert len(digests) == 3
    assert one.digest == training(calls, **options).at((0, 1, 2)).digest


@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_a_picture_shows_what_the_model_hears(seconds: float, calls: Path) -> None:
    examples = training(calls, augment="crop", seconds=seconds).at((0,))
    sheet = np.asarray(examples.picture())
    count, width = min(len(examples), 32), round(seconds * SOUND_RATE / overviews.HOPS[0])
    wide = width * max(1, overviews.CELL // width) if width < overviews.CELL else overviews.CELL
    down, right = overviews.BANDS + overviews.GUTTER, wide + overviews.GUTTER
    assert sheet.shape == (-(-count // 4) * down - overviews.GUTTER, 4 * right - overviews.GUTTER, 3)
    assert np.array_equal(sheet, np.asarray(examples.picture()))
    assert not np.array_equal(sheet, np.asarray(examples.at((1,)).picture()))


@pytest.mark.parametrize("seconds", [0.3, 0.8, 0.975, 5.0])
def test_no_column_of_a_short_overview_is_empty(seconds: float) -> None:
    overview = overviews.Overview(seconds, 16000, overviews.CELL, 1)
    overview.add(np.ones(round(seconds * 16000), np.float32))
    filled = np.isfinite(overview.decibels()).all(axis=0)
    assert filled[: round(len(filled) - 0.04 / overview.column_seconds)].all(), "but for half a frame at its end"


def test_other_noise_in_the_same_folder_gives_other_features(calls: Path, tmp_path: Path) -> None:
    """And the same in another one does not."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    soundfile.write(here / "a.wav", noise(SOUND_RATE, 0.5), SOUND_RATE)
    before = training(calls, noise=str(here)).digest
    shutil.copytree(here, there)
    soundfile.write(here / "a.wav", noise(SOUND_RATE, 0.5, seed=1), SOUND_RATE)
    assert training(calls, noise=str(here)).digest != before
    assert training(calls, noise=str(there)).digest == before


def test_noise_that_cannot_be_used_is_left_out_and_named(calls: Path, tmp_path: Path, one_line_error: Any) -> None:
    (tmp_path / "more").mkdir()
    soundfile.write(tmp_path / "good.wav", noise(SOUND_RATE, 0.5), SOUND_RATE)
    alone = training(calls, noise=str(tmp_path)).at((0,))
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:-200])
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "more" / "silent.wav", np.zeros(SOUND_RATE), SOUND_RATE)
    examples = training(calls, noise=str(tmp_path)).at((0,))
    (note,) = examples.notes
    words = ("--task.noise", "3 of 4", "cut.wav (cut off", "nowhere.wav (no such file)", "more/silent.wav (silent")
    assert [word for word in words if word not in note] == []
    assert examples.digest == alone.digest
    waves, expected = (each.__getitems__(range(18)).inputs["input_values"] for each in (examples, alone))
    assert torch.equal(waves, expected)
    assert training(calls, views=False, noise=str(tmp_path)).notes == ()
    (tmp_path / "good.wav").unlink()
    with one_line_error(f"--task.noise {tmp_path}", "none of its recordings", "cut.wav: cut off"):
        training(calls, noise=str(tmp_path))


def test_noise_that_cannot_be_used_is_told_before_training(
    calls: Path, tiny_model: Callable[[str], Path], tmp_path: Path, one_line_error: Any
) -> None:
    """Where it is wanted; and nothing is written before."""
    noises = tmp_path / "noises"
    noises.mkdir()
    soundfile.write(noises / "good.wav", noise(SOUND_RATE, 0.5), SOUND_RATE)
    (noises / "bad.wav").write_bytes(b"no sound")
    task = AudioClassification(str(calls), seconds=0.3, noise=str(noises))

    def told(**settings: Any) -> list[str]:
        recipe = quick(task, tiny_model("wav2vec2"), tmp_path / "run", **settings)
        started = prepare(recipe, Runtime("fp32")).run_started(tmp_path / "run", Runtime("fp32"))
        return [note for note in started.notes if "noise" in note]

    head, deep = Phase("head", 1), Phase("all", 1)
    assert told(phases=(head,)) == []
    for settings in ({"phases": (head, deep)}, {"phases": (head,), "store": Store(views=2)}):
        (note,) = told(**settings)
        assert note.startswith("train: --task.noise")
        assert "1 of 2 left out: bad.wav (" in note
    (noises / "good.wav").unlink()
    with one_line_error("--task.noise", "bad.wav"):
        told(phases=(head, deep))
    assert not (tmp_path / "run").exists()


def test_nothing_is_random_where_nothing_is_asked_for(calls: Path) -> None:
    examples, plain = training(calls, seconds=0.1), training(calls, views=False, seconds=0.1)
    assert not examples.random
    rows = range(len(plain))
    assert len(rows) > 18, "there is more than a window of a recording"
    waves = examples.at((0,)).__getitems__(rows).inputs["input_values"]
    assert torch.equal(waves, plain.__getitems__(rows).inputs["input_values"])


def test_classes_are_evened_out_by_windows(tmp_path: Path) -> None:
    """Of "long" there are half as many recordings, each of six windows."""
    for label, files, seconds in (("long", 3, 1.8), ("short", 6, 0.3)):
        for number in range(files):
            (tmp_path / label).mkdir(exist_ok=True)
            soundfile.write(tmp_path / label / f"{number}.wav", noise(SOUND_RATE, seconds, seed=number), SOUND_RATE)
    task = AudioClassification(str(tmp_path), seconds=0.3, balance="sampler", validation_fraction=0.34)
    rows = task.load_data(0, "unused", False, False).train
    examples = task.examples(rows, extractors.plain(SOUND_RATE, None), True)
    labels = np.asarray(rows["label"])[examples.clips.recording]
    assert (labels == 0).sum() == 3 * (labels == 1).sum() == 12
    assert examples.frequencies[labels == 0].sum() == pytest.approx(examples.frequencies[labels == 1].sum())

    logits = torch.zeros(2, 2)
    batch = Batch({}, torch.tensor([0, 1]), torch.arange(2))
    loss = replace(task, balance="weights").objective(rows)(SimpleNamespace(logits=logits), batch)
    assert (loss[1] / loss[0]).item() == pytest.approx(3), "what is a third as common counts three times"


def test_a_blend_has_shares_of_both_labels(calls: Path) -> None:
    targets = training(calls, mixup=1.0).at((0,)).__getitems__(range(18)).targets
    assert targets.shape == (18, 3)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(18))
    assert 0 < ((targets > 0).sum(dim=1) == 2).sum() < 18  # some partners are of the same class


def test_a_blend_has_the_labels_of_both_where_rows_have_any_number(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((calls / "train").rglob("*.wav"))
    lines = [f"{file},{'loud|' if number % 2 else ''}{file.parent.name}" for number, file in enumerate(files)]
    (tmp_path / "some.csv").write_text("\n".join(["path,label", *lines]))
    plain, mixed = (
        training(tmp_path / "some.csv", views=views, label_separator="|", mixup=0.4) for views in (False, True)
    )
    rows = range(len(plain))
    own, both = plain.__getitems__(rows).targets, mixed.at((0,)).__getitems__(rows).targets
    assert set(both.unique().tolist()) == {0.0, 1.0}
    assert (both >= own).all()
    assert (both.sum(dim=1) > own.sum(dim=1)).any()

    shares = []
    monkeypatch.setattr("hftl.audio.views.blend", lambda wave, other, share: shares.append(share) or wave)
    mixed.at((0,)).__getitems__(rows)
    assert 0.25 <= min(shares) < 0.35, "each can be heard"
    assert 0.65 < max(shares) <= 0.75


def test_a_folder_without_noise_gets_one_line(calls: Path, tmp_path: Path, one_line_error: Any) -> None:
    with one_line_error("--task.noise", "no sound files in it"):
        training(calls, noise=str(tmp_path))


def test_noise_is_looked_up_once(calls: Path, noises: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = training(calls, noise=str(noises))
    monkeypatch.setattr("hftl.audio.noises.checks.examine", lambda *_: pytest.fail("decoded again"))
    assert training(calls, noise=str(noises), views=False).options is None
    assert training(calls, noise=str(noises)).options == examples.options
    monkeypatch.setattr("hftl.audio.calls.sound_files", lambda *_: pytest.fail("again"))
    for epoch in range(3):
        examples.at((epoch,)).__getitems__(range(4))


def test_a_row_is_masked_with_its_own_mean() -> None:
    hearing = LogMel(SpectrogramConfig(time_masks=2, time_mask_width=10, freq_masks=1, freq_mask_width=8)).train()
    hearing.initialise()
    wave = torch.from_numpy(np.stack([noise(16000, 1.0, seed=seed)[:, 0] for seed in range(3)]))
    seen = []
    for loudness in (1, 100):
        torch.manual_seed(0)
        seen.append(hearing(wave * torch.tensor([[1], [loudness], [loudness]])))
    assert torch.equal(seen[0][0], seen[1][0])
    plain, row = hearing.eval()(wave)[0], seen[0][0]
    masked = row[(row - plain).abs() > 1e-4]
    assert len(masked) > 0
    torch.testing.assert_close(masked, plain.mean().expand(len(masked)), rtol=1e-4, atol=1e-4)
