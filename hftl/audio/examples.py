"""Windows of recordings as batches, plain and as random views."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hftl.data.labels import shares_of, targets_of

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from numpy.random import Generator
    from PIL.Image import Image

    from hftl.audio.clips import Clips
    from hftl.audio.sounds import Wave
    from hftl.data.batches import Batch, Frequencies
    from hftl.data.sampling import Ids

AUDIO_VERSION = 2
"""To be raised whenever ``AudioExamples`` makes something else of the same recordings: features made before are not
taken then."""
NOISY = 0.5
"""Part of the views that noise is laid under."""
AUDIBLE = 0.25
"""Share of the amplitude that each of two recordings has at least in a blend that has the labels of both."""


@dataclass(frozen=True)
class ViewOptions:
    """How random views differ; see the options of these names of ``AudioClassification``."""

    augment: Literal["crop", "none"] = "crop"
    gain: float = 0.0
    shift: float = 0.0
    noises: tuple[dict[str, Any], ...] = ()
    """Recordings to lay under views. See ``Noises``."""
    noise_decibels: tuple[float, float] = (3.0, 30.0)
    mixup: float = 0.0

    @property
    def varied(self) -> bool:
        """Whether they differ at all."""
        return self.augment != "none" or any((self.gain, self.shift, self.noises, self.mixup))

    def digested(self) -> tuple[Any, ...]:
        """All of it, a noise by how it sounds."""
        noises = [noise["digest"] for noise in self.noises]
        return (self.augment, self.gain, self.shift, noises, self.noise_decibels, self.mixup)


@dataclass(frozen=True)
class AudioExamples:
    """Windows of recordings as batches of what the feature extractor makes of them.

    ``input_values`` of shape (windows, samples), or what else the model takes. With ``options`` each is a random view,
    a pure function of ``seed`` and the window; without, the window as it is. Targets
    are those of the recording, of shape (windows,) or multi-hot (windows, labels), and where windows are mixed the
    shares of all labels.
    """

    dataset: Dataset
    clips: Clips
    processor: Any
    seconds: float
    """How long a window is."""
    overlap: float
    """Part of a window that the next one has as well."""
    options: ViewOptions | None = None
    """Of random views; None: the windows as they are."""
    seed: tuple[int, ...] = ()
    lengths: None = None
    frequencies: Frequencies | None = None
    notes: tuple[str, ...] = ()
    read_ahead: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def owners(self) -> Ids:
        """See ``Examples``."""
        return self.clips.recording

    @property
    def random(self) -> bool:
        """See ``Examples``."""
        return self.options is not None and self.options.varied

    @functools.cached_property
    def digest(self) -> str:
        """See ``Examples``. That of a recording is of how it sounds, so a file may move, and may not change."""
        from importlib.metadata import version

        from hftl.data.digests import table_digest

        return table_digest(
            self.dataset,
            [name for name in ("digest", "label", "soft") if name in self.dataset.column_names],
            AUDIO_VERSION,
            {name: version(name) for name in ("soundfile", "torchaudio", "transformers")},
            type(self.processor).__name__,
            self.processor.to_json_string(),
            (self.seconds, self.overlap),
            (self.options.digested(), self.seed) if self.options else None,
        )

    def at(self, seed: Sequence[int]) -> AudioExamples:
        """See ``Examples``."""
        return replace(self, seed=tuple(seed))

    def picture(self) -> Image:
        """Spectrograms of what the model hears: up to 32 windows from first to last, in one picture."""
        import numpy as np

        from hftl.audio.overviews import contact_sheet

        windows = np.linspace(0, len(self) - 1, min(len(self), 32)).round().astype(int).tolist()
        return contact_sheet(self._heard(windows)[0], self.processor.sampling_rate)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """See ``Examples``."""
        import torch

        from hftl.audio import extractors
        from hftl.data.batches import Batch

        waves, targets = self._heard(indices)
        return Batch(extractors.batch(self.processor, waves), targets, torch.tensor(indices))

    def _heard(self, indices: Sequence[int]) -> tuple[list[Wave], torch.Tensor | None]:
        """These windows or views of them, each of shape (samples,), and their targets."""
        import numpy as np

        rows = self.dataset[self.clips.recording[indices]]
        if self.options is None:
            starts = self.clips.start[indices]
            return [self._window(*each) for each in zip(_rows(rows), starts, strict=True)], targets_of(rows)
        # One generator a window: what it becomes must not depend on those beside it.
        rngs = [np.random.default_rng([*self.seed, index]) for index in indices]
        views = self._views(self.options, rows, indices, rngs)
        return self._mixed(self.options, views, rows, rngs) if self.options.mixup else (views, targets_of(rows))

    @property
    def _samples(self) -> int:
        return round(self.seconds * int(self.processor.sampling_rate))

    def _window(self, row: dict[str, Any], start: float, rng: Generator | None = None) -> Wave:
        """The recording from there on, silence around it: after its end, or with ``rng`` at random."""
        from hftl.audio.sounds import read_sound
        from hftl.audio.views import fitted

        wave = read_sound(row["audio"], self.processor.sampling_rate, float(start), self.seconds)
        return fitted(wave, self._samples, rng)

    def _views(
        self, options: ViewOptions, rows: dict[str, Any], indices: Sequence[int], rngs: Sequence[Generator]
    ) -> list[Wave]:
        """A random view of each of these windows, whose recordings are ``rows``."""
        starts = self.clips.start[indices]
        return [self._view(options, *each) for each in zip(_rows(rows), starts, rngs, strict=True)]

    def _view(self, options: ViewOptions, row: dict[str, Any], start: float, rng: Generator) -> Wave:
        """A random view of a window, or with crops of its recording, of shape (samples,)."""
        from hftl.audio import views

        if options.augment == "crop":
            wave = self._window(row, views.random_crop_start(row["seconds"], self.seconds, rng), rng)
        else:
            wave = self._window(row, start)
        wave = views.random_shift(wave, options.shift, rng)
        if options.noises and rng.random() < NOISY:
            noise = options.noises[int(rng.integers(len(options.noises)))]
            begin = views.random_crop_start(noise["seconds"], self.seconds, rng)
            wave = views.add_noise(wave, self._window(noise, begin, rng), rng.uniform(*options.noise_decibels))
        return views.random_gain(wave, options.gain, rng)

    def _mixed(
        self, options: ViewOptions, views: list[Wave], rows: dict[str, Any], rngs: Sequence[Generator]
    ) -> tuple[list[Wave], torch.Tensor]:
        """The views, and their targets of shape (windows, labels), mixed with those of random windows."""
        import torch

        from hftl.audio.views import blend

        chosen = [int(rng.integers(len(self))) for rng in rngs]
        partners = self.dataset[self.clips.recording[chosen]]
        others = self._views(options, partners, chosen, rngs)
        united = isinstance(rows["label"][0], list)
        least = AUDIBLE if united else 0.0
        shares = [least + (1 - 2 * least) * float(rng.beta(options.mixup, options.mixup)) for rng in rngs]
        mixed = [blend(*each) for each in zip(views, others, shares, strict=True)]
        own, theirs = shares_of(rows, self.dataset), shares_of(partners, self.dataset)
        if united:
            return mixed, torch.maximum(own, theirs)
        kept = torch.tensor(shares)[:, None]
        return mixed, kept * own + (1 - kept) * theirs


def _rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows from columns."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
