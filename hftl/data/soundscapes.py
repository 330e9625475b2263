"""Long recordings, read once from beginning to end: windows for a model, and a spectrogram to look at."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hftl.data import clips, extractors, sounds
from hftl.data.batches import Batch
from hftl.data.sounds import SoundValue, Wave
from hftl.data.wave_views import fitted
from hftl.errors import HftlError

PIECE = 2**16
"""Samples that are read at a time."""
ROW_SECONDS = 600.0
"""What a row of an overview lasts, unless that makes too many of them."""
N_FFT = 1024
"""Samples of a frame of an overview."""
HOPS = (128, 512)
"""Samples from one frame of an overview to the next, at least and at most."""
BANDS = 80
"""Mel bands of an overview."""

RANGE = (0.3, 0.998)
"""Shares of a spectrogram that are darker than its darkest and its lightest colour show."""
CELL, GUTTER = 240, 4
"""Pixels of a spectrogram on a contact sheet, from left to right, and between two of them."""


class Soundscape:
    """A recording of any length: its windows in batches. See ``hftl.tasks.base.Course``.

    Args:
        value: the recording.
        processor: the model's feature extractor.
        window: seconds of a window.
        overlap: part of a window that the next one has as well.
        shifted: whether the last window ends with the recording.
        columns: for an overview: how many columns make a row, and the most rows.

    Raises:
        HftlError: it cannot be opened, and is named.
    """

    def __init__(
        self,
        value: SoundValue,
        processor: Any,
        window: float,
        overlap: float,
        shifted: bool,
        columns: tuple[int, int] | None,
    ) -> None:
        self.value, self.processor, self.window = value, processor, window
        self.rate = int(processor.sampling_rate)
        self.seconds = sounds.duration(value)
        self.starts = clips.starts_in(self.seconds, window, overlap, shifted)
        self.overview = None if columns is None else Overview(self.seconds, self.rate, *columns)

    def batches(self, size: int) -> Iterator[Batch]:
        """See ``Course``."""
        waves: list[Wave] = []
        done = 0
        windows, damage = self._windows(), None
        while True:
            try:
                wave = next(windows, None)
            except HftlError as error:
                wave, damage = None, error
            if wave is not None:
                waves.append(wave)
            if len(waves) == size or (waves and wave is None):
                rows = torch.arange(done, done + len(waves))
                yield Batch(extractors.batch(self.processor, waves), None, rows)
                done, waves = done + len(waves), []
            if wave is None:
                break
        if damage is not None:
            raise damage

    def _windows(self) -> Iterator[Wave]:
        """The windows in order, each of shape (samples,); silence follows one that the recording does not fill."""
        samples = round(self.window * self.rate)
        firsts = [sounds.first_sample(start, self.rate) for start in self.starts]
        held, begin, number = np.empty(0, np.float32), 0, 0  # held: what windows to come need, from begin on
        for piece in sounds.stream(self.value, self.rate, PIECE):
            if self.overview is not None:
                self.overview.add(piece)
            held = np.concatenate([held, piece])
            while number < len(firsts) and firsts[number] + samples <= begin + len(held):
                yield held[firsts[number] - begin :][:samples].copy()
                number += 1
            needed = firsts[number] if number < len(firsts) else begin + len(held)
            held, begin = held[needed - begin :], begin + min(needed - begin, len(held))
        for first in firsts[number:]:
            yield fitted(held[first - begin :], samples)


class Overview:
    """A log-mel spectrogram of a whole recording in few columns, made as the recording is read.

    Args:
        seconds: how long the recording lasts.
        rate: samples a second.
        columns: of a row of the picture.
        rows: of the picture, at most.
    """

    def __init__(self, seconds: float, rate: int, columns: int, rows: int) -> None:
        self.rate = rate
        self.row_seconds = min(max(ROW_SECONDS, seconds / rows), seconds)
        """What a row lasts."""
        least = HOPS[0] / rate
        self.column_seconds = max(self.row_seconds / columns, least)
        """What a column lasts."""
        self._hop = int(np.clip(self.column_seconds * rate, *HOPS))
        self._mel = np.zeros((math.ceil(seconds / self.column_seconds), BANDS))
        self._frames = np.zeros(len(self._mel))
        self._held, self._begin = np.zeros(N_FFT // 2, np.float32), 0  # frames are centred: half of the first is none

    def add(self, wave: Wave) -> None:
        """What comes next in the recording, shape (samples,)."""
        held = np.concatenate([self._held, wave])
        count = max(0, (len(held) - N_FFT) // self._hop + 1)
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(held, N_FFT)[:: self._hop][:count]
            power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT).astype(np.float32))) ** 2
            middles = self._begin + self._hop * np.arange(count)
            # By samples: in seconds, a frame on the edge of a column may be rounded into the one before.
            column = (middles / (self.column_seconds * self.rate)).astype(np.int64).clip(max=len(self._mel) - 1)
            np.add.at(self._mel, column, power @ _filters(self.rate))
            np.add.at(self._frames, column, 1)
        self._held, self._begin = held[count * self._hop :], self._begin + count * self._hop

    def decibels(self) -> npt.NDArray[np.float64]:
        """Shape (bands, columns), the lowest frequency first; NaN where nothing was read."""
        with np.errstate(invalid="ignore"):
            mean = (self._mel / np.where(self._frames, self._frames, np.nan)[:, None]).T
        return np.asarray(10 * np.log10(mean + 1e-10))

    def band_of(self, hertz: float) -> float:
        """Where in the bands a frequency lies, counted from 0."""
        return float((BANDS + 1) * _mels(hertz) / _mels(self.rate / 2)) - 1


def contact_sheet(waves: Sequence[Wave], rate: int, columns: int = 4) -> Image.Image:
    """Spectrograms of many waves of one length as one picture, ``columns`` beside each other."""
    from matplotlib import colormaps

    cells = []
    for wave in waves:
        overview = Overview(len(wave) / rate, rate, CELL, 1)
        overview.add(wave)
        cells.append(np.flipud(overview.decibels()))
    mels = np.stack(cells)
    low, high = np.nanquantile(mels, RANGE)
    shades = np.nan_to_num((mels - low) / max(high - low, 1.0)).clip(0, 1)
    shades = shades.repeat(max(1, CELL // shades.shape[2]), axis=2)
    pixels = np.rint(255 * colormaps["magma"](shades)[..., :3]).astype(np.uint8)
    rows = math.ceil(len(pixels) / columns)
    sheet = np.full((rows * columns, *(side + GUTTER for side in pixels.shape[1:3]), 3), 255, np.uint8)
    sheet[: len(pixels), :-GUTTER, :-GUTTER] = pixels
    _, height, width, _ = sheet.shape
    grid = sheet.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(rows * height, columns * width, 3)[:-GUTTER, :-GUTTER])


def _mels(hertz: float) -> float:
    """HTK's mel scale."""
    return 2595 * math.log10(1 + hertz / 700)


@functools.cache
def _filters(rate: int) -> npt.NDArray[np.float32]:
    """HTK's triangles of height 1, equally wide in mels, shape (bins, bands)."""
    from torchaudio.functional import melscale_fbanks

    return np.asarray(melscale_fbanks(N_FFT // 2 + 1, 0.0, rate / 2, BANDS, rate).numpy())
