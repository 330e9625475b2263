"""Spectrograms of sounds for people to look at."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from hftl.audio.sounds import Wave

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

    def end(self) -> None:
        """The recording is over: silence follows, so that its last samples are in the middle of a frame as well."""
        self.add(np.zeros(N_FFT // 2 + self._hop, np.float32))

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
        overview.end()
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
