from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import FILES, MONO, ONE_STEP, RATE, STEREO, encoded, noise, soundfile

import hftl
from hftl.audio import sounds
from hftl.audio.sounds import SOUND_EXTENSIONS, as_stored, examine, extent, read_sound, sound_name

# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_form_is_read_as_the_mean_of_its_channels(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    wave = read_sound(str(path), RATE)
    expected, rate = soundfile.read(path, dtype="float32")
    assert (wave.dtype, wave.shape, rate) == (np.float32, (len(MONO),), RATE)
    np.testing.assert_allclose(wave, expected.mean(axis=1), rtol=0, atol=1e-7)  # the last bits of MP3 go by the block
    if name in ONE_STEP:
        np.testing.assert_allclose(wave, MONO, rtol=0, atol=ONE_STEP[name])
    else:
        assert np.corrcoef(wave, MONO)[0, 1] > 0.95  # the noise is what codecs leave out
    found = examine(str(path))
    assert (found.reason, found.seconds) == (None, len(MONO) / RATE)
    assert extent(str(path))[0] == pytest.approx(1.7)
    assert path.suffix in SOUND_EXTENSIONS


def test_every_kind_of_value_is_the_same_sound(tmp_path):
    path, data = tmp_path / "a.flac", encoded(MONO, form="FLAC")
    path.write_bytes(data)
    array = {"array": soundfile.read(path, dtype="float32")[0], "sampling_rate": RATE, "path": None}
    values = [str(path), data, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}, array]
    values += [{**array, "array": array["array"].astype(np.float64)}]
    values += [as_stored(value) for value in values]
    for rate in (RATE, 8000):
        for part in ({}, {"start": 0.31, "seconds": 0.77}):
            waves = {read_sound(value, rate, **part).tobytes() for value in values}
            assert len(waves) == 1
    assert {examine(value) for value in values} == {examine(str(path))}
    assert {extent(value) for value in values} == {(1.7, None)}


def test_the_digest_is_of_the_sound():
    exact = np.round(MONO * 2**15).astype(np.int16)
    same = [encoded(exact), encoded(exact, form="FLAC"), encoded(exact / np.float32(2**15), subtype="FLOAT")]
    same.append(encoded(np.stack([exact, exact], axis=1), form="AIFF"))
    assert len({examine(value).digest for value in same}) == 1
    changed = exact.copy()
    changed[-1] += 1
    others = [encoded(exact, 8000), encoded(changed), encoded(exact[:-1]), encoded(-exact), encoded(exact[::-1])]
    assert len({examine(value).digest for value in [same[0], *others]}) == 6
    assert 2**32 < examine(same[0]).digest < 2**64


def test_a_digest_does_not_depend_on_the_block(monkeypatch):
    found = examine(FILES["a.flac"])
    monkeypatch.setattr(sounds, "BLOCK", 1000)
    assert examine(FILES["a.flac"]) == found


def test_what_is_read_is_not_the_array_handed_in():
    array = MONO.copy()
    wave = read_sound({"array": array, "sampling_rate": RATE}, RATE)
    wave += 1
    np.testing.assert_array_equal(array, MONO)


# -- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("missing", [0.04, 0.5, 0.9])
def test_files_cut_off_are_found(name, missing, tmp_path, one_line_error):
    path = tmp_path / name
    path.write_bytes(FILES[name][: int(len(FILES[name]) * (1 - missing))])
    assert examine(str(path)).reason
    assert examine(str(path))[1:] == (0, 0.0)
    with one_line_error(str(path), "replace or remove"):
        read_sound(str(path), RATE)


def test_a_reason_says_what_is_wrong():
    assert examine(FILES["16.wav"][:-1000]).reason == "cut off: its header claims more samples than there are"
    assert "decoder" in (examine(FILES["a.flac"][:-1000]).reason or "")
    assert "last page" in (examine(FILES["a.ogg"][:-1000]).reason or "")
    assert "of the 1.7 s in its header" in (examine(FILES["a.mp3"][:-1000]).reason or "")


@pytest.mark.parametrize("form", ["a.ogg", "a.opus"])
def test_an_ogg_cut_anywhere_in_its_last_page_is_found(form):
    data = FILES[form]
    last = data.rfind(b"OggS")
    for cut in (last + 4, last + 20, last + 27, last + 40, (last + len(data)) // 2, len(data) - 1):
        assert "page" in (examine(data[:cut]).reason or "")
    assert examine(data + b"TAG" + bytes(125)) == examine(data)  # as some programs tag them


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_is_whole(claimed):
    data = encoded(MONO)
    assert data[36:40] == b"data"
    piped = data[:40] + struct.pack("<I", claimed) + data[44:]
    assert examine(piped) == examine(data)


def test_a_wav_of_an_odd_number_of_bytes_is_whole():
    for count in (1001, 1002):
        found = examine(encoded(MONO[:count], subtype="PCM_U8"))
        assert (found.reason, found.seconds) == (None, count / RATE)


@settings(max_examples=150)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 0.999), st.integers(0, 255), st.booleans())
def test_what_is_called_readable_can_be_read(form, place, byte, cut):
    data = bytearray(FILES[form])
    data[int(place * len(data))] = byte
    damaged = bytes(data[: int(place * len(data))] if cut else data)
    if examine(damaged).reason is None:
        assert len(read_sound(damaged, RATE)) > 0
        assert len(read_sound(damaged, 8000, 0.0, 0.5)) > 0


def test_reasons(tmp_path):
    page = tmp_path / "page.mp3"
    page.write_text("<html>404</html>" * 1000)
    (tmp_path / "empty.wav").write_bytes(b"")
    assert examine(str(page)).reason == "not a sound that libsndfile knows"
    assert examine(str(tmp_path / "empty.wav")).reason == examine(b"").reason == "empty: no bytes"
    assert examine(str(tmp_path / "gone.wav")).reason == "no such file"
    assert examine(str(tmp_path)).reason == "is a directory"
    assert examine(None).reason == examine({"bytes": None, "path": None}).reason == "no sound"
    assert examine(encoded(MONO[:0])) == ("empty: no samples", 0, 0.0)
    assert examine({"array": MONO[:0], "sampling_rate": RATE}).reason == "empty: no samples"


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_is_found_to_its_last_sample(level):
    still = np.full(200_000, level, dtype=np.float32)
    assert examine(encoded(still)) == ("silent: all samples are equal", 0, 0.0)
    assert not read_sound(encoded(still), RATE, 1.0, 1.0).std()  # a part may be silent
    still[-1] = 0.5
    assert examine(encoded(still)).reason is None
    still[sounds.BLOCK :] = 0.5  # blocks that are silent each
    assert examine(encoded(still)).reason is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 150_000, 199_999])
def test_samples_that_are_no_numbers_are_found(bad, place, one_line_error):
    samples = noise(RATE, 12.5)
    samples[place] = bad
    data = encoded(samples, subtype="FLOAT")
    assert examine(data) == ("has samples that are NaN or infinite", 0, 0.0)
    with one_line_error("sound of", "NaN", "replace or remove"):
        read_sound(data, RATE)
    with one_line_error("sound of", "NaN"):
        read_sound(data, RATE, max(place / RATE - 0.5, 0), 1.0)


@pytest.mark.parametrize(
    "value",
    [
        {"array": STEREO, "sampling_rate": RATE},
        {"array": (MONO * 32767).astype(np.int16), "sampling_rate": RATE},
        {"array": MONO, "sampling_rate": None},
    ],
)
def test_arrays_that_could_be_misread_are_refused(value, one_line_error):
    assert "floats from -1 to 1" in (examine(value).reason or "")
    for use in (lambda: read_sound(value, RATE), lambda: as_stored(value), lambda: extent(value)):
        with one_line_error("sound in memory", "sampling_rate"):
            use()


def test_parts_that_are_none(one_line_error):
    for start in (1.7, 1.8):
        with one_line_error("b.wav", "ends at 1.7 s", f"{start} s"):
            read_sound({"bytes": FILES["16.wav"], "path": "b.wav"}, RATE, start)
    for wrong in ({"start": -1.0}, {"seconds": 0.0}):
        with one_line_error("start", "seconds"):
            read_sound(FILES["16.wav"], RATE, **wrong)
    with one_line_error("rate=0"):
        read_sound(FILES["16.wav"], 0)


def test_a_filter_that_would_fill_the_memory_is_refused(one_line_error):
    with one_line_error("sound of", "11127:16000", "filter"):
        read_sound(encoded(MONO, 11127), RATE)


def test_without_soundfile_it_says_what_to_install():
    code = (
        "import sys\nsys.modules['soundfile'] = None\nfrom hftl.audio.sounds import examine, read_sound\n"
        "for read in (examine, lambda value: read_sound(value, 8000)):\n"
        "    try: read('a.wav')\n    except Exception as error: print(type(error).__name__, error)"
    )
    place = Path(hftl.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place)
    line = "HftlError audio: soundfile and torchaudio are needed; pip install 'hftl[audio]'"
    assert done.stdout.splitlines() == [line, line]


# -- names and storing -----------------------------------------------------------------------------------------------


def test_what_a_message_calls_a_sound():
    assert sound_name("a/b.wav") == "a/b.wav"
    assert sound_name({"bytes": b"123", "path": "b.wav"}) == "b.wav"
    assert sound_name({"bytes": b"123", "path": None}) == sound_name(b"123") == "sound of 3 bytes"
    assert sound_name({"array": MONO, "sampling_rate": RATE}) == "sound in memory"
    assert sound_name(None) == "no sound"


def test_stored_and_read_back_is_the_same():
    loud = {"array": 3 * MONO, "sampling_rate": 11025}
    stored = as_stored(loud)
    assert stored["path"] is None
    np.testing.assert_array_equal(read_sound(stored, 11025), 3 * MONO)
    assert as_stored("a.wav") == {"bytes": None, "path": "a.wav"}
    assert as_stored(b"1") == {"bytes": b"1", "path": None}
    assert as_stored({"bytes": b"1", "path": "a"}) == {"bytes": b"1", "path": "a"}
