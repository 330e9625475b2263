"""Audio classification: recordings to labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hftl.audio import mel
from hftl.audio.mel import Mel
from hftl.errors import HftlError
from hftl.probabilities import log_softmax, sigmoid
from hftl.tasks.parts.classification import (
    ANY_LABELS,
    METRICS,
    ONE_LABEL,
    Classification,
    is_multi_label,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    from hftl.audio.clips import Clips
    from hftl.audio.examples import AudioExamples
    from hftl.audio.noises import Noises
    from hftl.data.batches import Outputs, Settings
    from hftl.data.splits import BadRow, Splits
    from hftl.data.wanted import Labelling, Wanted
    from hftl.model.heads import Loaded
    from hftl.tasks.base import WindowStream

TINY = 1e-12
"""Probabilities are kept this far from 0 and 1, so that their logits are finite."""
LONGEST = 10.0
"""Seconds of a window at most, where the model takes any length and nobody says how long."""


@dataclass(frozen=True)
class AudioClassification(Classification):
    """Recordings in folders (one a class), or in a table as paths or bytes."""

    name: ClassVar[str] = "audio-classification"
    auto_class: ClassVar[str] = "AutoModelForAudioClassification"
    head_lr: ClassVar[float] = 3e-3
    lr: ClassVar[float] = 1e-4
    usual_metrics: ClassVar[dict[str, tuple[str, ...]]] = {
        ONE_LABEL: METRICS[ONE_LABEL],
        ANY_LABELS: ("mAP", "roc_auc", "micro_f1", "macro_f1"),
    }
    tuned: ClassVar[tuple[str, ...]] = ("thresholds", "window_thresholds")

    audio_column: str | None = None
    """Column of the recordings; unset, found by name and type."""
    secondary_column: str | None = None
    """Column of the labels that are heard as well, as lists or between blanks or semicolons; unset, secondary_labels
    where the label column is primary_label (BirdCLEF). Rows then have any number of labels."""
    secondary_weight: float = 0.5
    """Target of such labels in training, where 1 is a label like the first and 0 does without them. Scores count them
    as labels."""
    background: str | None = None
    """A folder of recordings without any of the labels, such as wind and traffic. Each is a row without a label, and
    scores have false_alarms_per_hour: labels given to windows of such recordings."""
    seconds: float | None = None
    """How much the model hears at once. A longer recording is cut into windows of this length, a shorter one is
    followed by silence. Unset, what the model was made for; where it takes any length, the longest recording's, at most
    10 seconds."""
    overlap: float = 0.0
    """Part of a window that the next one has as well, at least 0 and below 1."""
    combine: Literal["mean", "max"] = "mean"
    """How the windows of a recording make its answer: the mean or the highest of their probabilities."""
    augment: Literal["crop", "none"] = "crop"
    """Random views while blocks train: windows from anywhere in the recording, and the options below. Head-only phases
    hear plain windows, unless --store.views asks for more than one view."""
    gain: float = 0.0
    """Louder or quieter by at most so many decibels at random; 6 is usual. Next to nothing where the model normalises
    each window (mel.normalisation row; wav2vec2), but with mixup: how loud the two are beside each other."""
    shift: float = 0.0
    """Sooner or later by at most this part of the window at random, silence moving in; 0.1 is usual."""
    noise: str | None = None
    """A folder of recordings to lay under half of the views, such as wind and traffic. Those that cannot be used are
    left out."""
    noise_decibels: tuple[float, float] = (3.0, 30.0)
    """How much louder than such noise the view is, in decibels (signal-to-noise ratio), between these two."""
    mixup: float = 0.0
    """Blend each view, and its labels, with another recording's, in shares from Beta(a, a) with this a (Zhang et al.
    2018); 0.2 is usual. Where rows have any number of labels the blend has those of both, and neither has less than a
    quarter of it."""

    mel: Mel = field(default_factory=Mel)
    """The spectrogram in front of an image model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds is not None and not 0.01 <= self.seconds <= 3600:
            raise HftlError(f"seconds: {self.seconds} is out of range; it must be between 0.01 and 3600")
        low, high = self.noise_decibels
        if not (math.isfinite(low) and math.isfinite(high)):
            raise HftlError(f"noise_decibels: {low} and {high} are out of range; use numbers")
        if low > high:
            raise HftlError(f"noise_decibels: {low} is more than {high}; give the lower one first")
        for name, value, most in (
            ("overlap", self.overlap, 0.95),
            ("gain", self.gain, math.inf),
            ("shift", self.shift, 1),
            ("mixup", self.mixup, math.inf),
            ("secondary_weight", self.secondary_weight, 1),
        ):
            if not (math.isfinite(value) and 0 <= value <= most):
                upper = "" if most == math.inf else f" and at most {most}"
                raise HftlError(f"{name}: {value} is out of range; it must be at least 0{upper}")

    def _wanted(self, labelling: Labelling, seed: int, head: Any) -> Wanted:
        """Recordings, and what they have beside a label. With a head of any number of labels, rows have any number."""
        from hftl.audio.calls import Calls, background_beside
        from hftl.audio.recordings import RECORDINGS
        from hftl.data.wanted import Wanted

        unused = background_beside(self.data) if self.background is None and head is None else None
        sets = hasattr(head, "thresholds")
        calls = Calls(self.secondary_column, self.secondary_weight, self.background, unused, sets)
        return Wanted(
            RECORDINGS,
            (self.audio_column,),
            labelling=labelling,
            max_rows=self.max_rows,
            seed=seed,
            beside=calls,
        )

    @classmethod
    def know_models(cls) -> None:
        """See ``Task``: image models behind a spectrogram."""
        mel.know_spectrograms()

    def on(self, data: Any) -> Self:
        """See ``Task``: the background is not that of other data."""
        return replace(super().on(data), background=None)

    def load_processor(self, model: str, trust_remote_code: bool) -> Any:
        """The checkpoint's feature extractor; of a spectrogram model, one that hands the samples on as they are."""
        from hftl.audio import extractors, sounds

        sounds.check_libraries()
        if mel.is_image_model(model, trust_remote_code):
            return mel.processor_of(model, self.mel)
        return extractors.load(model, trust_remote_code)

    def resolved(self, splits: Splits, processor: Any) -> Self:
        """See ``Task``: how long a window is.

        Raises:
            HftlError: it is to be longer than what the feature extractor takes, or than all recordings by far.
        """
        from hftl.audio import extractors

        longest = max(max(split["seconds"], default=0.0) for split in splits.named().values())
        if self.seconds is None:
            made_for = extractors.seconds_of(processor)
            return replace(self, seconds=made_for or min(LONGEST, math.ceil(100 * longest) / 100))
        most, rate = extractors.most_seconds(processor), int(processor.sampling_rate)
        if most is not None and round(self.seconds * rate) > round(most * rate):
            raise HftlError(
                f"--task.seconds {self.seconds:g}: the {type(processor).__name__} takes {most:g} s and drops the "
                f"rest; give {most:g} or less (longer recordings are heard in several windows)"
            )
        if self.seconds > max(60, 10 * longest):
            raise HftlError(
                f"seconds: {self.seconds:g}, and the longest recording lasts {longest:.3g} s: windows would be silence "
                f"for the most part; use about {math.ceil(longest)}"
            )
        return self

    def examples(self, dataset: Dataset, processor: Any, augment: bool) -> AudioExamples:
        """The windows of the recordings. See ``Task``."""
        from hftl.audio.examples import AudioExamples, ViewOptions

        assert self.seconds is not None, "resolved by now"
        clips, noises, notes = self._clips(dataset), self._noises(augment), []
        options = ViewOptions(self.augment, self.gain, self.shift, noises.recordings, self.noise_decibels, self.mixup)
        if len(clips) > len(dataset):
            notes.append(f"{len(dataset):,} recordings in {len(clips):,} windows of {self.seconds:g} s")
        return AudioExamples(
            dataset=dataset,
            clips=clips,
            processor=processor,
            seconds=self.seconds,
            overlap=self.overlap,
            options=options if augment else None,
            notes=(*notes, *noises.notes),
            frequencies=self.frequencies(dataset),
        )

    def _noises(self, augment: bool) -> Noises:
        from hftl.audio import noises

        return noises.read(self.noise, "--task.noise") if augment and self.noise is not None else noises.Noises()

    def _clips(self, dataset: Dataset) -> Clips:
        from hftl.audio import clips

        assert self.seconds is not None, "resolved by now"
        return clips.cut(dataset["seconds"][:], self.seconds, self.overlap)

    def _trained_targets(self, dataset: Dataset) -> npt.NDArray[Any]:
        """Of the windows: a class of few but long recordings is not rare."""
        return super()._trained_targets(dataset)[self._clips(dataset).recording]

    def _joined(self, outputs: Outputs, dataset: Dataset, multi_label: bool) -> Outputs:
        """The logits of the recordings, from those of their windows, by way of probabilities."""
        import numpy as np

        from hftl.audio import clips

        logits, recording = outputs["logits"], self._clips(dataset).recording
        if len(logits) == len(dataset):
            return outputs
        if not multi_label:
            probabilities = clips.joined(np.exp(log_softmax(logits)), recording, len(dataset), self.combine)
            return {"logits": np.log(probabilities.clip(TINY))}
        probabilities = clips.joined(sigmoid(logits), recording, len(dataset), self.combine).clip(TINY, 1 - TINY)
        return {"logits": np.log(probabilities) - np.log1p(-probabilities)}

    def load_model(
        self,
        model: str,
        labels: Sequence[str],
        processor: Any,
        keep_head: bool,
        head_dropout: float,
        trust_remote_code: bool,
    ) -> Loaded:
        """See ``Task``. An image model is put behind a spectrogram."""
        if not mel.is_image_model(model, trust_remote_code):
            loaded = super().load_model(model, labels, processor, keep_head, head_dropout, trust_remote_code)
            return replace(loaded, notes=(*loaded.notes, *self.mel.unused()))
        assert self.seconds is not None, "resolved by now"
        loaded = mel.load(model, labels, self.seconds, self.mel, keep_head, head_dropout)
        return self._suited(loaded, processor)

    def _suited(self, loaded: Loaded, processor: Any) -> Loaded:
        from hftl.audio import waveforms

        assert self.seconds is not None, "resolved by now"
        samples = round(self.seconds * int(processor.sampling_rate))
        changed = waveforms.suited(loaded.model, samples, processor)
        return replace(loaded, notes=(*loaded.notes, *changed, *self._unheard_gain(loaded.model, processor, samples)))

    def _unheard_gain(self, model: Any, processor: Any, samples: int) -> list[str]:
        """A note where views are to be louder or quieter, and the model normalises that away."""
        from hftl.audio import extractors

        if not self.gain:
            return []
        own = model.front_end.eval() if model.config.model_type == "spectrogram_cnn" else None
        if not extractors.undoes_gain(processor, samples, own):
            return []
        left = (
            "with mixup it is how loud the two are beside each other, and little else"
            if self.mixup
            else "it changes next to nothing; leave --task.gain out"
        )
        return [f"gain {self.gain:g}: each window is normalised before the model hears it, so {left}"]

    def tune(self, outputs: Outputs, dataset: Dataset) -> dict[str, Any]:
        """See ``Task``: by recordings, not windows; but there are ``window_thresholds`` for these.

        The mean over a long recording hardly moves with one call, so that its thresholds are too low for the window
        with that call. Windows have the thresholds that tell best whether a recording has any with the label.
        """
        from hftl.data.labels import read_targets

        multi_label = read_targets(dataset).ndim == 2
        found = super().tune(self._joined(outputs, dataset, multi_label), dataset)
        if multi_label:
            loudest = replace(self, combine="max")._joined(outputs, dataset, multi_label)
            found["window_thresholds"] = super().tune(loudest, dataset)["thresholds"]
        return found

    def score(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> dict[str, float]:
        """See ``Task``: of recordings, not windows; but false alarms are those of windows."""
        from hftl.audio.scores import average_precisions_by_label, false_alarms

        multi_label = is_multi_label(settings)
        joined = self._joined(outputs, dataset, multi_label)
        found = super().score(joined, dataset, settings)
        if multi_label:
            given = self.predicted(self.probabilities(outputs, settings), settings, None)
            found |= false_alarms(given, dataset, self._clips(dataset).recording, self._hop)
            found |= average_precisions_by_label(joined, dataset, settings)
        return found

    def correctness(self, outputs: Outputs, dataset: Dataset, settings: Settings) -> npt.NDArray[np.float64]:
        """See ``Task``: of recordings."""
        return super().correctness(self._joined(outputs, dataset, is_multi_label(settings)), dataset, settings)

    def predicted(
        self, probabilities: npt.NDArray[np.float64], settings: Settings, threshold: float | None
    ) -> npt.NDArray[np.bool_]:
        """See ``DetectionTask``."""
        of_windows = settings.get("window_thresholds", settings.get("thresholds"))
        return super().predicted(probabilities, {**settings, "thresholds": of_windows}, threshold)

    @property
    def _hop(self) -> float:
        """Seconds from the beginning of a window to that of the next."""
        assert self.seconds is not None, "resolved by now"
        return self.seconds * (1 - self.overlap)

    def answers(
        self, outputs: Outputs, dataset: Dataset, labels: Sequence[str], settings: Settings
    ) -> list[dict[str, Any]]:
        """See ``Task``: of recordings, not windows."""
        joined = self._joined(outputs, dataset, is_multi_label(settings))
        return super().answers(joined, dataset, labels, settings)

    def read_inputs(
        self,
        inputs: Sequence[Any],
        processor: Any,  # noqa: ARG002
    ) -> tuple[Dataset, list[BadRow]]:
        """Recordings as files, folders of files, arrays with their sampling rate, or a table with a column of them."""
        import numpy as np
        from datasets import Dataset

        from hftl.audio import sounds
        from hftl.audio.recordings import RECORDINGS
        from hftl.data import checks

        found = [value for item in inputs for value in self._recordings(item)]
        if not found:
            raise HftlError(f"no recording to predict in {', '.join(map(str, inputs))}")
        columns = {"name": list(map(sounds.sound_name, found)), "audio": list(map(sounds.as_stored, found))}
        dataset = Dataset.from_dict(columns)
        bad, examined = checks.examine(dataset, "audio", np.arange(len(found)), "inputs", RECORDINGS)
        if len(bad) == len(found):
            raise HftlError(f"no recording to predict: {bad[0].name}: {bad[0].reason}")
        dataset = dataset.add_column("seconds", [each.seconds for each in examined])
        return dataset.select(np.setdiff1d(np.arange(len(found)), [row.row for row in bad])), bad

    def long_inputs(self, inputs: Sequence[Any]) -> list[tuple[str, Any]]:
        """See ``DetectionTask``: recordings, as ``read_inputs`` takes them."""
        from hftl.audio import sounds

        found = [value for item in inputs for value in self._recordings(item)]
        return [(sounds.sound_name(value), value) for value in found]

    def window_stream(
        self, value: Any, processor: Any, shifted: bool = True, columns: tuple[int, int] | None = None
    ) -> WindowStream:
        """See ``DetectionTask``."""
        from hftl.audio.soundscapes import Soundscape

        assert self.seconds is not None, "resolved by now"
        return Soundscape(value, processor, self.seconds, self.overlap, shifted, columns)

    def _recordings(self, item: Any) -> list[Any]:
        from datasets import Dataset

        from hftl.audio import calls
        from hftl.audio.recordings import RECORDINGS
        from hftl.data import sources

        if item is None or isinstance(item, bytes | Mapping):
            return [item]
        if isinstance(item, Dataset):
            return self._recordings_of(item, "the table")
        if not isinstance(item, str | Path):
            raise HftlError(
                f"a {type(item).__name__} is no recording; hand in a file, a folder, a table, bytes, or "
                "{'array': samples, 'sampling_rate': rate}"
            )
        path = Path(item).expanduser()
        if path.is_dir():
            return sorted(map(str, calls.recordings_in(path)))
        if path.suffix.lower() in sources.TABLE_EXTENSIONS and path.is_file():
            return self._recordings_of(sources.load(str(path), kind=RECORDINGS).splits["train"], str(path))
        return [str(path)]

    def _recordings_of(self, table: Dataset, name: str) -> list[Any]:
        from hftl.audio import segments
        from hftl.audio.recordings import AUDIO
        from hftl.data import columns

        column = columns.find_column(table, AUDIO, self.audio_column, ())
        table = columns.undecoded(table.with_format(None), column, AUDIO)
        segments.check_whole({name: table}, column)
        return [*table[column]]
