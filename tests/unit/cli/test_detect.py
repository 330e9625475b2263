"""Long recordings: read once in little memory, windows, detections, rows of a submission, pictures, the command."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sound_files import RATE, encoded, noise, soundfile

from hftl import HftlError, Phase, Predictor, Recipe, Trainer
from hftl.audio import clips, overviews, sounds, soundscapes
from hftl.cli import main
from hftl.data.ahead import ahead
from hftl.detections import Detection, Heard, clock_text
from hftl.records import EvaluationProgress
from hftl.report import soundscape as drawing
from hftl.tasks import AudioClassification
from hftl.tasks.audio_classification import Mel

WINDOW = 0.25
MEL = Mel(n_fft=128, win_length=128, hop_length=80, n_mels=16, image_size=(32, 32))


@pytest.fixture(scope="module")
def run(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two labels, one window of a quarter of a second at once, four in a batch."""
    root = tmp_path_factory.mktemp("detect")
    for label, level in (("loud", 1.0), ("soft", 0.01)):
        (root / "data" / label).mkdir(parents=True)
        for number in range(8):
            file = root / "data" / label / f"{label}{number}.wav"
            soundfile.write(file, level * noise(RATE, 0.3, seed=number), RATE, subtype="FLOAT")
    task = AudioClassification(str(root / "data"), seconds=WINDOW, mel=MEL)
    model, phases = str(tiny_model("mobilenet_v1")), (Phase("head", 1, 1e-2),)
    settings = {"batch_size": 8, "eval_batch_size": 4, "precision": "fp32", "refit": False}
    recipe = Recipe(task, model, phases, str(root / "run"), **settings)
    Trainer(recipe).fit(display=False)
    return root / "run"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """2.1 s at another rate than the model's: 8 windows, and more than a rest."""
    path = tmp_path / "meadow.wav"
    soundfile.write(path, noise(22050, 2.1, channels=2), 22050, subtype="FLOAT")
    return path


def heard(given: list[list[int]], starts: list[float], window: float = 5.0, seconds: float = 100.0) -> Heard:
    hot = np.array(given, dtype=bool)
    probabilities = np.where(hot, 0.6 + 0.01 * np.arange(len(hot))[:, None], 0.1)
    labels = tuple("abc"[: hot.shape[1]])
    return Heard("far/away.ogg", seconds, window, labels, np.array(starts), probabilities, hot)


def found(of: Heard, **options: Any) -> list[tuple[str, float, float, float]]:
    return [(each.label, each.start, each.end, round(each.score, 4)) for each in of.detections(**options)]


class TestStream:
    """Pieces that are together what ``read_sound`` gives at once."""

    @pytest.mark.parametrize("rate", [RATE, 22050, 8000, 48000])
    @pytest.mark.parametrize("samples", [1, 999, 4096, 10**6])
    def test_the_pieces_are_the_whole(self, rate: int, samples: int, tmp_path: Path) -> None:
        seconds = 0.1 if samples == 1 else 0.7
        soundfile.write(tmp_path / "a.flac", noise(rate, seconds, channels=2), rate)
        pieces = [*sounds.stream(str(tmp_path / "a.flac"), RATE, samples)]
        whole = sounds.read_sound(str(tmp_path / "a.flac"), RATE)
        assert len(pieces) > 1 or samples > len(whole)
        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)

    def test_each_sample_is_decoded_once_and_few_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        soundfile.write(tmp_path / "long.wav", noise(22050, 30), 22050)
        asked: list[tuple[int, int]] = []
        read = sounds._Encoded.read

        def counted(self: Any, start: int, stop: int) -> Any:
            asked.append((start, stop))
            return read(self, start, stop)

        monkeypatch.setattr(sounds._Encoded, "read", counted)
        largest = max(len(piece) for piece in sounds.stream(str(tmp_path / "long.wav"), RATE, 2**14))
        assert largest <= 2**14
        assert max(stop - start for start, stop in asked) < 2 * 2**14
        assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])]
        assert asked[-1][1] == 30 * 22050

    def test_damage_is_named_with_its_second(self, tmp_path: Path, one_line_error: Callable[..., Any]) -> None:
        wave = noise(RATE, 10)
        wave[7 * RATE] = np.nan
        soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
        pieces = sounds.stream(str(tmp_path / "a.wav"), RATE, 2**14)
        with one_line_error("a.wav", "from 6.", " s on", "NaN"):
            for _ in pieces:
                pass

    @pytest.mark.parametrize("form", ["WAV", "OGG"])
    def test_of_what_is_cut_off_all_that_is_there(self, form: str, one_line_error: Callable[..., Any]) -> None:
        whole = encoded(noise(RATE, 10), RATE, form)
        part = whole[: round(0.7 * len(whole))]
        seconds, cut_off = sounds.extent(part)
        assert 5 < seconds < 7.5
        assert "cut off" in str(cut_off)
        assert sounds.extent(whole) == (10.0, None)
        heard = np.concatenate([*sounds.stream(part, RATE, 2**14)])
        np.testing.assert_allclose(heard, sounds.read_sound(whole, RATE, 0.0, seconds), atol=1e-4)
        with one_line_error("cut off"):
            sounds.read_sound(part, RATE)


class TestGrid:
    """Where windows begin."""

    @pytest.mark.parametrize(
        ("seconds", "overlap", "shifted", "starts"),
        [
            (20, 0, True, [0, 5, 10, 15]),
            (20, 0, False, [0, 5, 10, 15]),
            (22, 0, True, [0, 5, 10, 15, 17]),
            (22, 0, False, [0, 5, 10, 15, 20]),
            (20.1, 0, True, [0, 5, 10, 15]),
            (20.1, 0, False, [0, 5, 10, 15]),
            (11, 0.5, True, [0, 2.5, 5, 6]),
            (11, 0.5, False, [0, 2.5, 5, 10]),
            (10, 0.5, False, [0, 2.5, 5]),
            (3, 0.5, True, [0]),
            (3, 0, False, [0]),
        ],
    )
    def test_starts(self, seconds: float, overlap: float, shifted: bool, starts: list[float]) -> None:
        assert clips.starts_in(seconds, 5.0, overlap, shifted).tolist() == starts

    def test_rows_of_a_submission_are_those_of_the_grid(self) -> None:
        rows = [*heard([[1, 0]] * 4, [0, 2.5, 5, 10]).rows()]
        assert [name for name, _ in rows] == ["away_5", "away_10", "away_15"]
        assert rows[2][1] == [0.6 + 0.03, 0.1]

    def test_the_ends_of_hours_are_exact(self) -> None:
        names = [name for name, _ in heard([[1]] * 2, [12345.0, 1e6], window=0.125, seconds=2e6).rows()]
        assert names == ["away_12345.125", "away_1000000.125"]


class TestDetections:
    """Windows of one label that follow each other or overlap are one."""

    def test_neighbours_are_one_and_the_highest_score_counts(self) -> None:
        of = heard([[1, 0], [1, 1], [0, 1], [1, 0]], [0, 5, 10, 15])
        assert found(of) == [("a", 0, 10, 0.61), ("b", 5, 15, 0.62), ("a", 15, 20, 0.63)]

    def test_windows_that_touch_are_one_whatever_lies_between(self) -> None:
        assert found(heard([[1, 0], [0, 1], [1, 0]], [0, 2.5, 5])) == [("a", 0, 10, 0.62), ("b", 2.5, 7.5, 0.61)]

    def test_times_that_floats_miss_touch(self) -> None:
        starts = [0.0, 3.3000000000000003, 6.6000000000000005]
        assert len(found(heard([[1], [1], [1]], starts, window=3.3))) == 1

    def test_none_is_longer_than_the_recording(self) -> None:
        assert found(heard([[1], [1]], [0, 5], seconds=7)) == [("a", 0, 7, 0.61)]

    def test_nothing_is_heard_in_silence(self) -> None:
        assert found(heard([[0, 0]], [0])) == []

    def test_labels_can_be_ignored(self) -> None:
        assert found(heard([[1, 1]], [0]), ignore=["a"]) == [("b", 0, 5, 0.6)]

    def test_labels_of_the_most_probable_and_of_thresholds(self) -> None:
        task = AudioClassification("x")
        probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]])
        assert task.predicted(probabilities, {}, None).tolist() == [[True, False, False], [False, False, False]]
        assert task.predicted(probabilities, {}, 0.3).tolist() == [[True, False, False], [True, False, False]]
        several = {"problem_type": "multi_label_classification", "thresholds": [0.5, 0.3, 0.2]}
        assert task.predicted(probabilities, several, None).tolist() == [[True, True, False], [False, True, True]]
        assert task.predicted(probabilities, several, 0.4).tolist() == [[True, False, False], [True, False, False]]

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0, "0:00"), (5, "0:05"), (59.96, "1:00"), (723.5, "12:03.5"), (3723, "1:02:03")]
    )
    def test_times_as_text(self, seconds: float, text: str) -> None:
        assert clock_text(seconds) == text


class TestDetect:
    """A run on recordings."""

    @pytest.mark.parametrize("overlap", [0.0, 0.5])
    def test_each_window_is_what_predict_says_of_it(self, overlap: float, run: Path, recording: Path) -> None:
        predictor, told = Predictor(run), list[EvaluationProgress]()
        (one,) = predictor.detect([recording], overlap=overlap, reader=told.append)
        assert one.starts.tolist() == pytest.approx(clips.starts_in(2.1, WINDOW, overlap).tolist())
        waves = [sounds.read_sound(str(recording), RATE, start, WINDOW) for start in one.starts]
        answers = predictor([{"array": wave, "sampling_rate": RATE} for wave in waves])
        expected = [[answer["scores"][label] for label in predictor.labels] for answer in answers]
        np.testing.assert_allclose(one.probabilities, expected, atol=1e-5)
        assert np.ptp(one.probabilities[:, 0]) > 1e-4  # else any window would do
        assert [record.done for record in told] == [*range(4, len(one.starts), 4), len(one.starts)]
        assert {(record.split, record.rows) for record in told} == {("meadow.wav", len(one.starts))}

    def test_memory_does_not_grow_with_the_recording(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held: dict[str, list[int]] = {}
        concatenate = np.concatenate

        def counted(arrays: Any, *rest: Any, **options: Any) -> Any:
            made = concatenate(arrays, *rest, **options)
            sizes.append(made.size)
            return made

        predictor = Predictor(run)
        monkeypatch.setattr(soundscapes, "PIECE", 2**12)
        for name, seconds in (("short", 4.0), ("long", 40.0)):
            soundfile.write(tmp_path / f"{name}.wav", noise(RATE, seconds), RATE)
            sizes: list[int] = []
            with monkeypatch.context() as patch:
                patch.setattr(np, "concatenate", counted)
                (one,) = predictor.detect(tmp_path / f"{name}.wav", columns=(50, 2))
            assert len(one.starts) == seconds / WINDOW
            held[name] = sizes
        assert len(held["long"]) > 5 * len(held["short"])
        assert max(max(sizes) for sizes in held.values()) <= WINDOW * RATE + 2**12 + overviews.N_FFT

    @pytest.mark.parametrize("form", ["WAV", "OGG"])
    def test_what_is_cut_off_is_heard_to_its_end(self, form: str, run: Path, tmp_path: Path) -> None:
        whole = encoded(noise(RATE, 10), RATE, form)
        (tmp_path / "a.snd").write_bytes(whole[: round(0.7 * len(whole))])
        predictor = Predictor(run)
        (one,) = predictor.detect(tmp_path)
        assert one.seconds == sounds.extent(str(tmp_path / "a.snd"))[0]
        assert one.starts[-1] + WINDOW == pytest.approx(one.seconds, abs=0.05 * WINDOW)
        (row,) = predictor.bad_rows
        assert row.reason.startswith(f"from {one.seconds:.6g} s on: cut off")

    def test_bytes_are_one_recording_and_an_array_alone_is_none(
        self, run: Path, one_line_error: Callable[..., Any]
    ) -> None:
        predictor, data = Predictor(run), encoded(noise(RATE, 2 * WINDOW), RATE, "FLAC")
        (one,) = predictor.detect(data)
        assert len(one.starts) == 2
        assert predictor(data)[0]["name"] == f"sound of {len(data)} bytes"
        for ask in (predictor, predictor.detect):
            with one_line_error("ndarray", "sampling_rate"):
                ask(np.zeros(RATE, np.float32))

    def test_silence_has_no_label(self, run: Path) -> None:
        wave = noise(RATE, 8 * WINDOW)[:, 0]
        wave[round(2 * WINDOW * RATE) : round(5 * WINDOW * RATE)] = 0.1
        (one,) = Predictor(run).detect({"array": wave, "sampling_rate": RATE}, threshold=0.0)
        assert one.predicted.any(axis=1).tolist() == [True, True, False, False, False, True, True, True]

    def test_a_file_that_is_named_twice_is_heard_once(self, run: Path, recording: Path) -> None:
        (recording.parent / f"._{recording.name}").write_bytes(b"not a sound: macOS puts such beside each file")
        several = [recording, str(recording.parent), recording.parent / ".." / recording.parent.name / recording.name]
        predictor = Predictor(run)
        assert len([*predictor.detect(several)]) == 1
        assert not predictor.bad_rows

    def test_what_is_damaged_is_heard_up_to_there_and_the_others_as_a_whole(self, run: Path, tmp_path: Path) -> None:
        wave = noise(RATE, 20)
        soundfile.write(tmp_path / "b.wav", wave, RATE, subtype="FLOAT")
        wave[15 * RATE] = np.nan
        soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
        (tmp_path / "c.wav").write_bytes(b"no sound")
        predictor = Predictor(run)
        damaged, whole = predictor.detect(tmp_path)
        assert 10 < damaged.seconds < 15 == 20 - 5 < whole.seconds == 20
        np.testing.assert_allclose(damaged.probabilities, whole.probabilities[: len(damaged.starts)], atol=1e-5)
        assert [Path(row.name).name for row in predictor.bad_rows] == ["a.wav", "c.wav"]
        assert "NaN" in predictor.bad_rows[0].reason
        assert " s on" in predictor.bad_rows[0].reason

    def test_what_cannot_be_is_refused(self, run: Path, recording: Path, one_line_error: Callable[..., Any]) -> None:
        predictor = Predictor(run)
        with one_line_error("overlap", "1.5"):
            predictor.detect(recording, overlap=1.5)
        with one_line_error("threshold", "50"):
            predictor.detect(recording, threshold=50)
        (recording.parent / "empty").mkdir()
        with one_line_error("empty", "nothing to detect"):
            predictor.detect(recording.parent / "empty")


def test_reading_ahead_changes_nothing_and_raises_what_is_raised() -> None:
    def three() -> Any:
        yield from (1, 2, 3)
        raise HftlError("damage")

    seen = []
    with pytest.raises(HftlError, match="damage"):
        seen.extend(iter_into(ahead(three()), seen))
    assert seen == [1, 2, 3]


def iter_into(values: Any, seen: list[int]) -> list[int]:
    for value in values:
        seen.append(value)  # noqa: PERF402
    return []


class TestPicture:
    """The overview, and what is drawn of it."""

    def test_a_tone_is_where_and_when_it_sounds(self) -> None:
        wave = np.zeros(20 * RATE, np.float32)
        wave[5 * RATE : 10 * RATE] = np.sin(2 * np.pi * 2000 * np.arange(5 * RATE) / RATE)
        overview = overviews.Overview(20.0, RATE, columns=100, rows=3)
        for begin in range(0, len(wave), 5000):
            overview.add(wave[begin : begin + 5000])
        pixels = overview.decibels()
        assert pixels.shape == (overviews.BANDS, 100)
        assert np.isfinite(pixels).all()
        assert abs(pixels[:, 37].argmax() - overview.band_of(2000)) < 1
        loud = np.flatnonzero(pixels.max(axis=0) > pixels.max() - 3)
        assert (loud.min(), loud.max()) == (25, 49)

    def test_no_column_is_empty_up_to_the_end(self) -> None:
        for samples in (10, 5000, round(14.51 * RATE)):
            overview = overviews.Overview(samples / RATE, RATE, 1200, 12)
            overview.add(noise(RATE, samples / RATE)[:, 0])
            overview.end()
            assert np.isfinite(overview.decibels()).all()

    def test_probabilities_are_drawn_from_the_first_window_to_the_last(self) -> None:
        for starts, edges in (([0.0], [0, 4]), ([0.0, 5.0, 7.0], [0, 5, 8.5, 12])):
            axes = drawing.picture(self._heard(starts, starts[-1] + min(5, 4 + starts[-1])), []).axes[2]
            assert [patch.get_data().edges.tolist() for patch in axes.patches] == [edges] * 3

    def test_what_is_ignored_is_not_drawn_even_where_nothing_was_heard(self) -> None:
        of = self._heard([0.0, 5.0], 10.0)
        for ignore, lanes in (((), ["a", "b", "c"]), (("a",), ["b", "c"]), (("a", "b", "c"), [])):
            axes = drawing.picture(of, [], ignore).axes[0]
            assert [text.get_text() for text in axes.get_yticklabels()] == lanes

    def test_short_names_leave_room_for_those_of_the_axes(self) -> None:
        figure = drawing.picture(self._heard([0.0, 5.0], 10.0), [])
        figure.draw_without_rendering()
        assert min(axes.yaxis.label.get_window_extent().x0 for axes in figure.axes[1:]) > 0

    def test_names_that_are_long_or_not_in_the_font(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        of = dataclasses.replace(self._heard([0.0, 5.0], 10.0), recording=f"{'鳥 $ und ' * 30}.wav")
        drawing.draw(of, [], tmp_path / "a.png")
        assert [str(each.message) for each in recwarn if "Glyph" in str(each.message)] == []
        figure = drawing.picture(of, [])
        assert str(figure.get_suptitle()).endswith("… · 10 s · 0 detections")

    def _heard(self, starts: list[float], seconds: float) -> Heard:
        overview = overviews.Overview(seconds, 48000, 100, 2)
        given = np.zeros((len(starts), 3), dtype=bool)
        return Heard("a.ogg", seconds, 5.0, ("a", "b", "c"), np.array(starts), 0.1 + given, given, overview)

    def test_how_it_is_cut_into_pieces_makes_no_difference(self) -> None:
        wave = noise(RATE, 3)[:, 0]
        pictures = []
        for size in (700, 5000, 10**6):
            overview = overviews.Overview(3.0, RATE, 60, 2)
            for begin in range(0, len(wave), size):
                overview.add(wave[begin : begin + size])
            pictures.append(overview.decibels())
        np.testing.assert_allclose(pictures[0], pictures[1], atol=1e-3)
        np.testing.assert_allclose(pictures[0], pictures[2], atol=1e-3)

    @pytest.mark.parametrize(("minutes", "rows"), [(1, 1), (10, 1), (25, 3), (120, 12), (600, 12)])
    def test_long_recordings_have_rows(self, minutes: int, rows: int) -> None:
        overview = overviews.Overview(60.0 * minutes, 8000, 100, drawing.MOST_ROWS)
        starts = np.arange(0, 60.0 * minutes, 5)
        zeros = np.zeros((len(starts), 1))
        of = Heard("a.ogg", 60.0 * minutes, 5.0, ("$wren$",), starts, zeros, zeros > 0, overview)
        figure = drawing.picture(of, [Detection("a.ogg", 10, 20, "$wren$", 0.9)])
        assert len(figure.axes) == 3 * rows
        bars = [[patch.get_x() for patch in axes.patches] for axes in figure.axes[::3]]
        assert bars == [[10], *[[]] * (rows - 1)]


class TestCommand:
    """What people type."""

    def test_all_it_writes(
        self, run: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tables = tmp_path / "new" / "d.csv", tmp_path / "new" / "s.csv"
        written = ["--out", str(tables[0]), "--submission", str(tables[1]), "--picture", str(tmp_path / "pictures")]
        main(["detect", str(run), str(recording), *written, "--threshold", "0"])
        said = capsys.readouterr().out
        assert "times real time" in said
        assert "meadow.wav" in said
        detections, submission = ([*csv.DictReader(table.open())] for table in tables)
        assert [*detections[0]] == ["recording", "start", "end", "label", "score"]
        assert {row["recording"] for row in detections} == {str(recording)}
        lasted = sum(float(row["end"]) - float(row["start"]) for row in detections)
        assert lasted == pytest.approx(2.1)  # each window has a label, and the last ends with the recording
        ends = [f"meadow_{WINDOW * number:g}" for number in range(1, 10)]
        assert [row["row_id"] for row in submission] == ends
        assert [*submission[0]][1:] == ["loud", "soft"]
        assert all(float(row["loud"]) + float(row["soft"]) == pytest.approx(1, abs=1e-4) for row in submission)
        assert (tmp_path / "pictures" / "meadow.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["nowhere.ogg"], ["none of the recordings"]),
            (["{}", "--ignore", "frog"], ["frog", "loud, soft"]),
            (["{}", "--submission", "s.csv", "--overlap", "0.3"], ["0.3", "grid"]),
            (["{}", "--submission", "s.csv", "--overlap", "1"], ["overlap: 1.0", "at most 0.95"]),
            (["{}", "--submission", "s.csv", "--overlap", "nan"], ["overlap: nan"]),
            (["{}", "--out", "."], ["--out", "directory"]),
            (["{}", "--out", "{}"], ["--out", "one of the recordings"]),
            (["{}", "--out", "s.csv", "--submission", "./s.csv"], ["--submission s.csv", "same file"]),
            pytest.param(
                ["{}", "--out", "/dev/full"],
                ["--out /dev/full", "no space"],
                marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full"),
            ),
            ([], ["name recordings"]),
            (["--ignore", "loud", "{}"], ["name recordings", "before"]),
        ],
    )
    def test_mistakes_are_one_line(
        self,
        arguments: list[str],
        words: list[str],
        run: Path,
        recording: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as caught:
            main(["detect", str(run), *(argument.format(recording) for argument in arguments)])
        assert caught.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("hftl: ")
        assert [word for word in words if word not in last] == []

    def test_two_recordings_of_one_name_make_no_submission_but_pictures(
        self, run: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("other/meadow.wav", "third/meadow-2.wav"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(recording.read_bytes())
        (tmp_path / "s.csv").write_text("of yesterday")
        with pytest.raises(SystemExit):
            main(["detect", str(run), str(tmp_path), "--submission", str(tmp_path / "s.csv")])
        assert "same row ids" in capsys.readouterr().err
        assert (tmp_path / "s.csv").read_text() == "of yesterday"
        main(["detect", str(run), str(tmp_path), "--picture", str(tmp_path / "p")])
        assert len([*(tmp_path / "p").iterdir()]) == 3

    def test_a_long_name_leaves_room_for_what_was_heard(
        self, run: Path, recording: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        named = recording.rename(recording.with_name(f"{'meadow ' * 20}.wav"))
        main(["detect", str(run), str(named), "--threshold", "0"])
        head, first, *_ = capsys.readouterr().out.splitlines()
        assert head.split() == ["recording", "start", "end", "label", "score"]
        assert "meadow" in first
        assert first.split()[-4] == "0:00"

    def test_a_table_of_before_is_lost_only_to_another(self, run: Path, recording: Path, tmp_path: Path) -> None:
        (tmp_path / "d.csv").write_text("of yesterday")
        with pytest.raises(SystemExit):
            main(["detect", str(run), str(tmp_path / "nowhere.wav"), "--out", str(tmp_path / "d.csv")])
        assert (tmp_path / "d.csv").read_text() == "of yesterday"
        main(["detect", str(run), str(recording), "--out", str(tmp_path / "d.csv")])
        assert (tmp_path / "d.csv").read_text().startswith("recording,start,end,label,score")

    def test_a_run_of_another_task_is_refused(
        self,
        tiny_model: Callable[[str], Path],
        photos: Path,
        tmp_path: Path,
        recording: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from hftl.tasks import ImageClassification

        model, phases = str(tiny_model("mobilenet_v1")), (Phase("head", 1, 1e-2),)
        recipe = Recipe(ImageClassification(str(photos)), model, phases, str(tmp_path / "run"), precision="fp32")
        Trainer(recipe).fit(display=False)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["detect", str(tmp_path / "run"), str(recording)])
        assert "image-classification detects nothing in long inputs" in capsys.readouterr().err
