"""What models of waveforms do at random inside while they train, made fit for windows of any length."""

from __future__ import annotations

from typing import Any

import numpy as np

from hftl.audio import extractors

MOST = 0.5
"""Part of a window that is masked at most, by what the configuration says of a whole mask."""


def suited(model: Any, samples: int, processor: Any) -> list[str]:
    """Have the model train on windows of so many samples as its configuration means it; what was changed, a line each.

    LayerDrop leaves out whole layers, each process others: those that have no gradient are waited for. And masks in
    time (SpecAugment) are of at least two stretches of 0.2 s as wav2vec2 has them, which may be all of a short window;
    one that is longer than the window is an error in the middle of training.
    """
    return [*_without_layer_drop(model), *_masks_that_fit(model, samples, processor)]


def _without_layer_drop(model: Any) -> list[str]:
    config, notes = model.config, []
    for setting in ("layerdrop", "encoder_layerdrop"):
        if getattr(config, setting, 0):
            notes.append(f"{setting}: {getattr(config, setting)} in the checkpoint, 0 here: all processes train alike")
            setattr(config, setting, 0.0)
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    return notes


def _masks_that_fit(model: Any, samples: int, processor: Any) -> list[str]:
    config = model.config
    if not getattr(config, "apply_spec_augment", False) or not config.mask_time_prob:
        return []
    frames, length, least = _frames(model, samples, processor), config.mask_time_length, config.mask_time_min_masks
    if frames is None:
        return []
    if length > MOST * frames:
        config.mask_time_prob = 0.0
        return [f"mask_time_prob: 0, for a mask is {length} frames long and a window {frames}"]
    if least * length > MOST * frames:
        config.mask_time_min_masks = 0
        return [f"mask_time_min_masks: 0, for {least} masks of {length} frames are too much of a window of {frames}"]
    if least and extractors.masks_samples(processor):
        # The masks are laid over what of a window is sound, and how little that may be is not known here.
        config.mask_time_min_masks = 0
        return [
            f"mask_time_min_masks: 0, for {least} masks of {length} frames may be too much of a recording that is "
            "shorter than its window"
        ]
    return []


def _frames(model: Any, samples: int, processor: Any) -> int | None:
    """How many frames of a window of so many samples masks are laid over; None where nothing tells."""
    lengths = getattr(model, "_get_feat_extract_output_lengths", None)
    if lengths is None:
        return None
    if model.main_input_name == "input_values":
        return int(lengths(samples))
    # Wav2Vec2-BERT takes frames, so its function does, too: how many a window has only the extractor can tell.
    window = extractors.batch(processor, [np.zeros(samples, dtype=np.float32)])
    return int(window[model.main_input_name].shape[1])
