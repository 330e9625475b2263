"""What models of waveforms do at random inside while they train, made fit for windows of any length."""

from __future__ import annotations

from typing import Any

MOST = 0.5
"""Part of a window that is masked at most, by what the configuration says of a whole mask."""


def suited(model: Any, samples: int) -> list[str]:
    """Have the model train on windows of so many samples as its configuration means it; what was changed, a line each.

    LayerDrop leaves out whole layers, each process others: those that have no gradient are waited for. And masks in
    time (SpecAugment) are of at least two stretches of 0.2 s as wav2vec2 has them, which may be all of a short window;
    one that is longer than the window is an error in the middle of training.
    """
    return [*_without_layer_drop(model), *_masks_that_fit(model, samples)]


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


def _masks_that_fit(model: Any, samples: int) -> list[str]:
    config = model.config
    lengths = getattr(model, "_get_feat_extract_output_lengths", None)
    if lengths is None or not getattr(config, "apply_spec_augment", False) or not config.mask_time_prob:
        return []
    frames, length, least = int(lengths(samples)), config.mask_time_length, config.mask_time_min_masks
    if length > MOST * frames:
        config.mask_time_prob = 0.0
        return [f"mask_time_prob: 0, for a mask is {length} frames long and a window {frames}"]
    if least * length > MOST * frames:
        config.mask_time_min_masks = 0
        return [f"mask_time_min_masks: 0, for {least} masks of {length} frames are too much of a window of {frames}"]
    return []
