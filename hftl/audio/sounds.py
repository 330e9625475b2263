"""Reading sounds, and saying why one cannot be read."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hftl.audio.backend import mend_torchaudio
from hftl.data.kinds import Examined, digest64
from hftl.errors import HftlError

SoundValue: TypeAlias = str | bytes | Mapping[str, Any]
"""A path, encoded bytes, the struct {"bytes", "path"} of ``datasets``, or {"array", "sampling_rate"} in memory.

An array is of one channel: floats from -1 to 1, shape (samples,).
"""

Wave: TypeAlias = npt.NDArray[np.float32]
"""One channel of sound, from -1 to 1, shape (samples,)."""

SOUND_EXTENSIONS = frozenset(
    {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".snd", ".sph"}
    | {".w64", ".wav", ".wave"}
)
"""Of the files that count as sounds in a folder; in lower case, with the dot."""

BLOCK = 2**16
"""Samples of each channel that are decoded at a time where all are looked at."""
PREROLL = 2.0
"""Seconds decoded before a part of an Opus or MP3 file: only after these are the samples those of the whole file.

A frame of MP3 may have bits in up to 255 bytes before it (511 from 32 kHz on), which at the lowest rates hold 2 s.
"""
PREROLLED = frozenset({"OPUS", "MPEG_LAYER_III"})
"""What libsndfile calls the two."""
LARGEST_PAGE = 27 + 255 + 255 * 255
"""Bytes of a page of Ogg at most: its header, the lengths of its segments, and these."""
LARGEST_KERNEL = 2**24
"""Weights of a resampling filter; rates without a common divisor need many (11127 to 16000 Hz: 178 million)."""

UNKNOWN_LENGTH = 0x7FFFF000
"""Bytes that a header claims at least where its writer (a pipe) could not know how many would follow."""
CLAIMS = re.compile(
    r"^ *(?:data|SSND|riff|Data Size) *: (?P<claimed>\d+) \(should be (?P<there>\d+)\)"
    r"|frame count (?P<there_>\d+) does not match value from 'ds64' chunk of (?P<claimed_>\d+)",
    re.MULTILINE,
)
"""What libsndfile logs where a header (of WAV and AU, AIFF, W64; of RF64) claims another length than the file has."""

_DAMAGE = (OSError, RuntimeError, ValueError, TypeError)
"""What reading a damaged sound raises: by the system, by soundfile, and by the checks here."""


def examine(value: SoundValue | None) -> Examined:
    """Whether training can use this sound, its digest, and its length.

    Decodes all of it, in little memory. A sound whose samples are all equal is silent.
    """
    try:
        with _opened(value) as sound:
            decoded, low, high = hashlib.blake2b(), math.inf, -math.inf
            for start in range(0, sound.frames, BLOCK):
                wave = _finite(sound.read(start, min(start + BLOCK, sound.frames)))
                low, high = min(low, float(wave.min())), max(high, float(wave.max()))
                decoded.update(wave.tobytes())
            seconds = sound.frames / sound.rate
            digest = digest64(repr(sound.rate).encode(), decoded.digest())
    except _DAMAGE as error:
        return Examined(_reason(error), 0)
    return Examined(None, digest, seconds) if low < high else Examined("silent: all samples are equal", 0)


def read_sound(value: SoundValue, rate: int, start: float = 0.0, seconds: float | None = None) -> Wave:
    """The mean of the sound's channels at ``rate`` Hz, or a part of it: ``seconds`` long, from ``start`` (in seconds).

    Only the part is decoded, and as much around it as the resampling filter sees, so that it equals that part of the
    whole sound resampled. It has round(seconds * rate) samples where the sound lasts so long, fewer where it ends
    before.

    Raises:
        HftlError: it cannot be read, or ends before ``start``; the file is named.
    """
    if rate < 1 or start < 0 or (seconds is not None and seconds <= 0):
        raise HftlError(
            f"rate={rate}, start={start}, seconds={seconds}: rate and seconds must be above 0, start not below"
        )
    with _named(value), _opened(value) as sound:
        resampling = _Resampling(sound, rate)
        first, last = first_sample(start, rate), resampling.total
        if seconds is not None:
            last = min(first + round(seconds * rate), last)
        if first >= resampling.total:
            raise ValueError(f"ends at {sound.frames / sound.rate:.6g} s, before its part at {start:.6g} s")
        wave = _finite(sound.read(*resampling.seen(first, last)))
    return resampling.part(wave, first, last)


def first_sample(start: float, rate: int) -> int:
    """Which sample at ``rate`` Hz a part from ``start`` (in seconds) on begins with.

    Rounded down, but for the error of the floats: rounded up, a part could have a sample less than it must.
    """
    return math.floor(start * rate + 1e-6)


def stream(value: SoundValue, rate: int, samples: int) -> Iterator[Wave]:
    """The mean of the sound's channels at ``rate`` Hz, piece by piece: together what ``read_sound`` gives of all of it.

    Everything is decoded once, when it is asked for; of a sound that is cut off (see ``extent``), all that is there.

    Args:
        value: the sound.
        rate: samples a second.
        samples: of a piece, about; the last has fewer.

    Raises:
        HftlError: it cannot be read, or not from some second on; the file and the second are named.
    """
    with _named(value), _opened(value, whole=False) as sound:
        resampling = _Resampling(sound, rate)
        size = max(1, samples // resampling.new) * resampling.new
        held, begin = np.empty(0, np.float32), 0  # held: what is needed of the sound, from begin on
        for first in range(0, resampling.total, size):
            last = min(first + size, resampling.total)
            start, stop = resampling.seen(first, last)
            held = np.concatenate([held[start - begin :], *_read(sound, begin + len(held), stop)])
            begin = start
            yield resampling.part(held, first, last)


def _read(sound: _InMemory | _Encoded, start: int, stop: int) -> Iterator[Wave]:
    """The samples from ``start`` to before ``stop``, in blocks; where one is damaged, the message says where."""
    for begin in range(start, stop, BLOCK):
        try:
            yield _finite(sound.read(begin, min(begin + BLOCK, stop)))
        except _DAMAGE as error:
            raise ValueError(f"from {begin / sound.rate:.6g} s on: {_reason(error)}") from None


def extent(value: SoundValue) -> tuple[float, str | None]:
    """Seconds of the sound that are there, and why it has not more; None where it does not say that it had more.

    By its header, nothing is decoded. Where a recorder died, what it wrote can be heard.

    Raises:
        HftlError: it cannot be read; the file is named.
    """
    with _named(value), _opened(value, whole=False) as sound:
        return sound.frames / sound.rate, sound.cut_off


def as_stored(value: SoundValue | None) -> dict[str, Any]:
    """The struct {"bytes", "path"} in which ``datasets`` stores sounds; one in memory becomes a WAV of 32-bit floats.

    Raises:
        HftlError: it is in memory, and not one channel of floats with a rate.
    """
    if isinstance(value, str):
        return {"bytes": None, "path": value}
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if value is None:
        return {"bytes": None, "path": None}
    if value.get("array") is None:
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    soundfile, buffer = _soundfile(), io.BytesIO()
    with _named(value):
        sound = _InMemory(value)
    soundfile.write(buffer, sound.wave, sound.rate, format="WAV", subtype="FLOAT")
    return {"bytes": buffer.getvalue(), "path": value.get("path")}


def sound_name(value: SoundValue | None) -> str:
    """What to call a sound in a message: its path where it has one."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get("path"):
        return str(value["path"])
    if isinstance(value, Mapping) and value.get("array") is not None:
        return "sound in memory"
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return f"sound of {len(data)} bytes" if data else "no sound"


# -- where the samples come from -------------------------------------------------------------------------------------


class _InMemory:
    """The samples of an array: ``frames``, at least 1, at ``rate`` Hz."""

    cut_off: str | None = None
    """Why there are not as many as there were."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        array, self.rate = np.asarray(value["array"]), int(value.get("sampling_rate") or 0)
        if array.ndim != 1 or array.dtype.kind != "f" or self.rate < 1:
            found = f"shape {array.shape} of {array.dtype} at {self.rate} Hz"
            raise ValueError(
                f"an array of {found}, not of shape (samples,) of floats from -1 to 1 with a sampling_rate"
            )
        self.wave: Wave = array.astype(np.float32, copy=False)
        self.frames = _some(len(array))

    def read(self, start: int, stop: int) -> Wave:
        return self.wave[start:stop].copy()


class _Encoded:
    """The samples of a file, as of an array, decoded as they are asked for."""

    def __init__(self, file: Any, cut_off: str | None) -> None:
        self.cut_off = cut_off
        self.file, self.rate, self.frames = file, int(file.samplerate), _some(int(file.frames))
        self.preroll = round(PREROLL * self.rate) if file.subtype in PREROLLED else 0
        # Else soundfile seeks after whatever it reads, to where it is already; of MP3, decoding then begins anew.
        file.seekable = lambda: False
        for found in CLAIMS.finditer(file.extra_info):
            claimed, there = (int(found[name] or found[f"{name}_"]) for name in ("claimed", "there"))
            if there < claimed < UNKNOWN_LENGTH:
                self.cut_off = "cut off: its header claims more samples than there are"

    def read(self, start: int, stop: int) -> Wave:
        """The samples from ``start`` to before ``stop``; ValueError where there are fewer."""
        if self.file.tell() != start:
            early = min(start, self.preroll)
            self.file.seek(start - early)
            self.file.read(early, dtype="float32")
        samples = self.file.read(stop - start, dtype="float32", always_2d=True)
        if len(samples) < stop - start:
            ends, claims = (start + len(samples)) / self.rate, self.frames / self.rate
            raise ValueError(f"damaged or cut off: decodes to {ends:.6g} s of the {claims:.6g} s in its header")
        return np.asarray(samples.mean(axis=1), dtype=np.float32)


class _Resampling:
    """A sound at another rate, part by part: as it would be of the whole.

    In each step the filter takes ``old`` samples to ``new`` ones, and sees ``reach`` more on either side. ``total`` is
    how many samples all of it becomes. Raises ValueError where the filter would be too large.
    """

    def __init__(self, sound: _InMemory | _Encoded, rate: int) -> None:
        common = math.gcd(sound.rate, rate)
        self.old, self.new, self.frames = sound.rate // common, rate // common, sound.frames
        self.reach = _resampler(self.old, self.new).width if self.old != self.new else 0
        self.total = -(-self.frames * self.new // self.old)

    def seen(self, first: int, last: int) -> tuple[int, int]:
        """From which sample of the sound to before which counts for the new ones from ``first`` to before ``last``."""
        begin, end = self._steps(first, last)
        return begin * self.old, min(end * self.old + self.reach, self.frames)

    def part(self, wave: Wave, first: int, last: int) -> Wave:
        """The new samples from ``first`` to before ``last``, shape (last - first,), of a wave of those ``seen``."""
        begin, end = self._steps(first, last)
        if self.old != self.new:
            # The zeros that the filter would put there itself; of long waves without them it may drop a last sample.
            wave = np.pad(wave, (0, (end - begin) * self.old + self.reach - len(wave)))
            wave = _resampler(self.old, self.new)(torch.from_numpy(wave)).numpy()
        return wave[first - begin * self.new : last - begin * self.new]

    def _steps(self, first: int, last: int) -> tuple[int, int]:
        """The steps to take for these new samples: the filter sees what comes before them, too."""
        return max(0, first // self.new - math.ceil(self.reach / self.old)), (last - 1) // self.new + 1


@contextmanager
def _opened(value: SoundValue | None, whole: bool = True) -> Iterator[_InMemory | _Encoded]:
    """The sound, which can be read until the context ends; ValueError where it is cut off and must be ``whole``."""
    soundfile = _soundfile()
    if isinstance(value, Mapping):
        if value.get("array") is not None:
            yield _InMemory(value)
            return
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None:
        raise ValueError("no sound")
    # A file, not its path, is handed over: of a missing one soundfile says "System error".
    with io.BytesIO(value) if isinstance(value, bytes) else open(value, "rb") as source:
        if not source.read(1):
            raise ValueError("empty: no bytes")
        source.seek(0)
        cut_off = _cut_off_page(source)
        if whole and cut_off:
            raise ValueError(cut_off)
        with soundfile.SoundFile(source) as file:
            sound = _Encoded(file, cut_off)
            if whole and sound.cut_off:
                raise ValueError(sound.cut_off)
            yield sound


def _cut_off_page(source: BinaryIO) -> str | None:
    """Whether an Ogg file ends within a page, of which libsndfile says no word; it goes back to the beginning."""
    cut_off = None
    if source.read(4) == b"OggS":
        source.seek(max(source.seek(0, io.SEEK_END) - LARGEST_PAGE, 0))
        tail = source.read()
        page = tail[tail.rfind(b"OggS") :]
        lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
        if len(page) < 27 or len(page) < 27 + page[26] + sum(lengths):
            cut_off = "cut off: its last page is not complete"
    source.seek(0)
    return cut_off


def _some(frames: int) -> int:
    if frames < 1:
        raise ValueError("empty: no samples")
    return frames


def _finite(wave: Wave) -> Wave:
    if not np.isfinite(wave).all():
        raise ValueError("has samples that are NaN or infinite")
    return wave


@contextmanager
def _named(value: SoundValue) -> Iterator[None]:
    """Damage that is found inside is raised with the name of the sound."""
    try:
        yield
    except _DAMAGE as error:
        raise HftlError(f"{sound_name(value)}: {_reason(error)}; replace or remove it") from None


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    said = getattr(error, "error_string", None)  # of soundfile, without the name of its buffer
    if said == "Format not recognised.":
        return "not a sound that libsndfile knows"
    if said:
        return f"libsndfile says: {str(said).removeprefix('Error : ').rstrip('.').lower()}"
    return " ".join(str(error).split()) or type(error).__name__


# -- the libraries ---------------------------------------------------------------------------------------------------


def check_libraries() -> None:
    """That what reads and resamples is there.

    Raises:
        HftlError: it is not; the line says what to install.
    """
    _soundfile()
    _torchaudio()


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError where there is no libsndfile
        raise _missing() from None
    return soundfile


def _torchaudio() -> Any:
    mend_torchaudio()
    try:
        import torchaudio
    except ImportError:
        raise _missing() from None
    return torchaudio


@lru_cache(maxsize=16)
def _resampler(old: int, new: int) -> Any:
    if old * new > LARGEST_KERNEL:
        raise ValueError(f"its rate is {old}:{new} to that of the model, which takes too large a filter")
    return _torchaudio().transforms.Resample(old, new)


def _missing() -> HftlError:
    return HftlError("audio: soundfile and torchaudio are needed; pip install 'hftl[audio]'")
