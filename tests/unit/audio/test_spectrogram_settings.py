"""What a spectrogram CNN cannot be told."""

from __future__ import annotations

from typing import Any

import pytest

from hftl.audio.spectrogram import SpectrogramConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_channels": 2}, "num_channels: 2 is none of 1, 3"),
        ({"power": 0}, "power: 0 is none of 1, 2"),
        ({"log": "ln"}, "log: 'ln' is none of offset, decibel"),
        ({"normalisation": "batch"}, "normalisation: 'batch' is none of none, row, fixed"),
        ({"win_length": 600}, "win_length: 600 does not fit into n_fft, 512"),
        ({"hop_length": 0}, "hop_length: 0"),
        ({"sampling_rate": 8000}, "125.0 to 7500.0 Hz is no range within the 4000.0 Hz"),
        ({"log_offset": 0.0}, "log_offset: 0.0"),
        ({"log_offset": float("nan")}, "log_offset: nan"),
        ({"f_max": 0.0}, "125.0 to 0.0 Hz is no range"),
        ({"sampling_rate": 0}, "sampling_rate: 0 is too few"),
        ({"n_mels": 0}, "n_mels: 0 is too few"),
        ({"image_size": (0, 8)}, "image_size: 0 is too few"),
        ({"normalisation": "fixed", "std": 0.0}, "mean, std: 0.0 and 0.0"),
        ({"normalisation": "fixed", "mean": float("nan")}, "mean, std: nan and 1.0"),
        ({"mean": -4.0, "std": 4.0}, "mean, std: normalisation 'none' has no use for them"),
        ({"time_masks": 1}, "time_masks, time_mask_width: 1 masks of at most 0 mask nothing"),
        ({"time_mask_width": 8}, "time_masks, time_mask_width: 0 masks of at most 8 mask nothing"),
        ({"freq_masks": 1, "freq_mask_width": -3}, "freq_masks, freq_mask_width: 1 masks of at most -3"),
        ({"freq_masks": 1, "freq_mask_width": 65}, "freq_mask_width: 65 is more than the 64 bands"),
        ({"window_seconds": 0.01}, "window_seconds: 0.01 is shorter than one frame of 400 samples"),
        ({"image_config": {"model_type": "resnot"}}, "'resnot' is no family of transformers"),
    ],
)
def test_bad_settings_get_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        SpectrogramConfig(**settings)
    assert "\n" not in str(caught.value)
