"""Long recordings, read once from beginning to end: windows for a model, and on the way an overview."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hftl.audio import clips, extractors, sounds
from hftl.audio.overviews import Overview
from hftl.audio.sounds import SoundValue, Wave
from hftl.audio.views import fitted
from hftl.data.batches import Batch
from hftl.errors import HftlError

PIECE = 2**16
"""Samples that are read at a time."""


class Soundscape:
    """A recording of any length: its windows in batches. See ``hftl.tasks.base.WindowStream``.

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
        self.seconds, self._cut_off = sounds.extent(value)
        self.starts = clips.starts_in(self.seconds, window, overlap, shifted)
        self.overview = None if columns is None else Overview(self.seconds, self.rate, *columns)
        self.silent: list[bool] = []

    def batches(self, size: int) -> Iterator[Batch]:
        """See ``WindowStream``."""
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
                self.silent.append(bool(wave.min() == wave.max()))
            if len(waves) == size or (waves and wave is None):
                rows = torch.arange(done, done + len(waves))
                yield Batch(extractors.batch(self.processor, waves), None, rows)
                done, waves = done + len(waves), []
            if wave is None:
                break
        if damage is None and self._cut_off:
            name = sounds.sound_name(self.value)
            damage = HftlError(f"{name}: from {self.seconds:.6g} s on: {self._cut_off}; replace or remove it")
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
        if self.overview is not None:
            self.overview.end()
        for first in firsts[number:]:
            yield fitted(held[first - begin :], samples)
