"""Tiny models with random weights, one of each family, with processors and tokenizers that really work.

Every family has the kind of processor that its real checkpoints have; those of GPT-2 and Llama have no pad token.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

WORDS = "good bad fine poor great awful film plot actor scene the a was is very not and of it"

SIZE = 32
"""Height and width in pixels of what the image models see."""

TINY = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
WIDE = {"initializer_range": 0.2}
"""The usual 0.02 is for layers of hundreds of units; in these the signal would get lost on its way."""
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


def write_model(family: str, folder: Path) -> None:
    """A folder with the family's model and its processor, as ``save_pretrained`` writes it; the same at every call."""
    import torch

    from hftl.quiet import quiet_transformers

    torch.manual_seed(0)
    model, processor = {**IMAGE, **TEXT, **AUDIO}[MELS[family][0] if family in MELS else family]()
    with quiet_transformers():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    if family == "mel-mobilenet_v1":
        write_front_end(folder)


def auto_class(family: str) -> str:
    """The class by which the tasks load a family."""
    kinds = {**dict.fromkeys(IMAGE, "Image"), **dict.fromkeys({**AUDIO, **MELS}, "Audio")}
    return f"AutoModelFor{kinds.get(family, 'Sequence')}Classification"


# -- images ----------------------------------------------------------------------------------------------------------


def _image(kind: str, processor: str, settings: Mapping[str, Any], shape: str = "square") -> tuple[Any, Any]:
    """A classifier of five labels, and a processor that gives squares: at once, or by cutting out the middle."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(num_labels=5, **WIDE, **settings)
    sizes: dict[str, dict[str, Any]] = {
        "square": {"size": {"height": SIZE, "width": SIZE}},
        "shortest edge": {"size": {"shortest_edge": SIZE}},
        "crop": {"size": {"shortest_edge": SIZE + 4}, "crop_size": {"height": SIZE, "width": SIZE}},
    }
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    return _with_fit_batch_norm(model, SIZE), getattr(transformers, f"{processor}ImageProcessor")(**sizes[shape])


def _timm(architecture: str, size: int = SIZE, **settings: Any) -> tuple[Any, Any]:
    """One of timm's models, whose configuration says of itself how images are to be prepared."""
    import transformers

    seen = {"input_size": [3, size, size], "crop_pct": 0.9, "interpolation": "bicubic"}
    colours = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    config = transformers.TimmWrapperConfig(
        architecture=architecture, num_labels=5, model_args=settings, pretrained_cfg={**seen, **colours}
    )
    model = transformers.TimmWrapperForImageClassification(config)
    return _with_fit_batch_norm(model, size), transformers.TimmWrapperImageProcessor(config.pretrained_cfg)


def _with_fit_batch_norm(model: Any, size: int) -> Any:
    """The model with running statistics that are those of its weights, as after training: else signals vanish."""
    import torch

    norms = {module: module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    for module in norms:
        module.momentum = 1.0
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(16, 3, size, size))
    for module, momentum in norms.items():
        module.momentum = momentum
    return model.eval()


PATCHES = {**TINY, "image_size": SIZE, "patch_size": 8}

IMAGE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "vit": lambda: _image("ViT", "ViT", PATCHES),
    "deit": lambda: _image("DeiT", "DeiT", PATCHES, "crop"),
    "beit": lambda: _image("Beit", "Beit", {**PATCHES, "use_relative_position_bias": True}),
    "dinov2": lambda: _image("Dinov2", "Bit", {**PATCHES, "mlp_ratio": 2}, "crop"),
    "swin": lambda: _image(
        "Swin",
        "ViT",
        {"image_size": SIZE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}
        | {"window_size": 2},
    ),
    "convnextv2": lambda: _image("ConvNextV2", "ConvNext", STAGES, "shortest edge"),
    "resnet": lambda: _image("ResNet", "ConvNext", {**STAGES, "embedding_size": 8}, "shortest edge"),
    "regnet": lambda: _image("RegNet", "ConvNext", {**STAGES, "embedding_size": 8, "groups_width": 4}, "shortest edge"),
    "mobilenet_v1": lambda: _image(
        "MobileNetV1",
        "MobileNetV1",
        {"image_size": SIZE, "depth_multiplier": 0.25, "classifier_dropout_prob": 0.999},
        "crop",
    ),
    "mobilenet_v2": lambda: _image(
        "MobileNetV2",
        "MobileNetV2",
        {"image_size": SIZE, "depth_multiplier": 0.25, "classifier_dropout_prob": 0.8},
        "crop",
    ),
    "efficientnet": lambda: _image(
        "EfficientNet",
        "EfficientNet",
        {"image_size": SIZE, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    ),
}

TIMM: dict[str, Callable[[], tuple[Any, Any]]] = {
    "timm-vgg16": lambda: _timm("vgg16", mlp_ratio=0.01),  # else a hundred million parameters in one layer
    "timm-inception_v3": lambda: _timm("inception_v3", size=75),  # it takes nothing smaller
    "timm-mobilenetv3_small_100": lambda: _timm("mobilenetv3_small_100"),
    "timm-efficientnet_b0": lambda: _timm("efficientnet_b0"),
}
if importlib.util.find_spec("timm"):
    IMAGE |= TIMM

# -- sounds ----------------------------------------------------------------------------------------------------------

SOUND_RATE = 8000
"""Samples a second of what the models of sounds hear."""


def _waveform(kind: str, layer_norm: bool = False, **more: Any) -> tuple[Any, Any]:
    """A backbone without a head that takes samples: frames of 20 ms, by convolutions."""
    import transformers

    convolutions = {"conv_dim": (8, 8, 8), "conv_kernel": (10, 4, 4), "conv_stride": (5, 4, 8)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
    norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if layer_norm else {}
    settings = {**TINY, **WIDE, **convolutions, **positions, **norms, **more}
    config = getattr(transformers, f"{kind}Config")(**settings)
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=SOUND_RATE, return_attention_mask=layer_norm)
    return getattr(transformers, f"{kind}Model")(config), extractor


def _wav2vec2_bert() -> tuple[Any, Any]:
    """It takes pairs of frames of a spectrogram, 40 ms each at this rate."""
    import transformers

    positions = {"left_max_position_embeddings": 4, "right_max_position_embeddings": 2, "conv_depthwise_kernel_size": 3}
    config = transformers.Wav2Vec2BertConfig(
        **TINY, **WIDE, **positions, feature_projection_input_dim=16, classifier_proj_size=8, layerdrop=0.0
    )
    extractor = transformers.SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8, sampling_rate=SOUND_RATE)
    return transformers.Wav2Vec2BertModel(config), extractor


def _ast() -> tuple[Any, Any]:
    """Patches of a spectrogram of 0.3 s."""
    import transformers

    shape = {"num_mel_bins": 16, "max_length": 30}
    config = transformers.ASTConfig(**TINY, **WIDE, **shape, patch_size=8, frequency_stride=8, time_stride=8)
    return transformers.ASTModel(config), transformers.ASTFeatureExtractor(sampling_rate=SOUND_RATE, **shape)


def _whisper() -> tuple[Any, Any]:
    """It hears a second."""
    import transformers

    encoder = {"encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "max_source_positions": 25}
    rest = {"vocab_size": 20, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        d_model=16, num_mel_bins=8, init_std=0.2, classifier_proj_size=8, **encoder, **rest, **tokens
    )
    extractor = transformers.WhisperFeatureExtractor(
        feature_size=8, sampling_rate=16000, hop_length=320, chunk_length=1
    )
    return transformers.WhisperForAudioClassification(config), extractor


AUDIO: dict[str, Callable[[], tuple[Any, Any]]] = {
    "ast": _ast,
    "wav2vec2": lambda: _waveform("Wav2Vec2"),
    "wav2vec2-layer-norm": lambda: _waveform("Wav2Vec2", layer_norm=True, mask_time_length=3, layerdrop=0.0),
    "hubert": lambda: _waveform("Hubert"),
    "wavlm": lambda: _waveform("WavLM"),
    "data2vec-audio": lambda: _waveform("Data2VecAudio", num_conv_pos_embeddings=2, conv_pos_kernel_size=3),
    "wav2vec2-bert": _wav2vec2_bert,
    "whisper": _whisper,
}

SMALL_MEL = {
    "sampling_rate": SOUND_RATE,
    "n_fft": 256,
    "win_length": 200,
    "hop_length": 80,
    "n_mels": 32,
    "f_min": 20.0,
}
MELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mel-resnet": ("resnet", SMALL_MEL),
    "mel-efficientnet": ("efficientnet", {**SMALL_MEL, "image_size": (SIZE, SIZE)}),
    "mel-vit": ("vit", {**SMALL_MEL, "image_size": (SIZE, SIZE)}),
    "mel-mobilenet_v1": ("mobilenet_v1", {}),
}
"""Image models behind a spectrogram: whose, and the options of the spectrogram. The last brings its own."""


def write_front_end(folder: Path) -> None:
    """A front end beside an image model's weights, as beside YAMNet: of windows of 0.3 s."""
    import json

    import torch
    from safetensors.torch import save_file
    from torchaudio.functional import melscale_fbanks

    said = {**SMALL_MEL, "f_max": 3500.0, "patch_frames": 28, "spectrogram": "magnitude"}
    said |= {"log": "log(mel+0.01)", "layout": "rows, channel, frames, mels"}
    (folder / "frontend_config.json").write_text(json.dumps(said))
    bank = melscale_fbanks(129, 20.0, 3500.0, 32, SOUND_RATE).T.contiguous()
    save_file({"window": torch.hann_window(200) ** 0.5, "mel_filterbank": bank}, folder / "frontend.safetensors")


# -- texts -----------------------------------------------------------------------------------------------------------


def _text(kind: str, tokenizer: Any, settings: Mapping[str, Any] = TINY, **more: Any) -> tuple[Any, Any]:
    """A backbone without a head, whose special tokens are the tokenizer's."""
    import transformers

    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    special = {name: getattr(tokenizer, name) for name in names}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **WIDE, **settings, **special, **more)
    return getattr(transformers, f"{kind}Model")(config), tokenizer


def _tokenizer(special: Mapping[str, str], template: str, pair: str | None = None, segments: bool = False) -> Any:
    """A word-level tokenizer: the special tokens have the first ids, and wrap a text or a pair as a template says."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = list(dict.fromkeys(special.values()))
    vocabulary = {word: index for index, word in enumerate([*tokens, *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair=pair, special_tokens=[(token, vocabulary[token]) for token in tokens]
    )
    inputs = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, model_input_names=inputs, **special)


def bert_tokenizer(segments: bool = False) -> Any:
    """Words between [CLS] and [SEP]; with segments, the second text of a pair has another token type."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _tokenizer(special, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", segments)


def roberta_tokenizer() -> Any:
    """Words between <s> and </s>; the id of <pad> is 1, which MPNet takes for granted."""
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    return _tokenizer({**special, "bos_token": "<s>", "eos_token": "</s>"}, "<s> $A </s>", "<s> $A </s> </s> $B </s>")


def gpt2_tokenizer() -> Any:
    """Words as they are; one special token for everything, and none of them for padding."""
    end = "<|endoftext|>"
    return _tokenizer({"unk_token": end, "bos_token": end, "eos_token": end}, "$A")


def llama_tokenizer() -> Any:
    """Words after <s>; no token for padding."""
    return _tokenizer({"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}, "<s> $A")


LONG = {**TINY, "max_position_embeddings": 66}

TEXT: dict[str, Callable[[], tuple[Any, Any]]] = {
    "bert": lambda: _text("Bert", bert_tokenizer(segments=True), LONG),
    "distilbert": lambda: _text(
        "DistilBert",
        bert_tokenizer(),
        {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 66},
    ),
    "roberta": lambda: _text("Roberta", roberta_tokenizer(), LONG),
    "electra": lambda: _text("Electra", bert_tokenizer(segments=True), LONG, embedding_size=8),
    "deberta-v2": lambda: _text(
        "DebertaV2",
        bert_tokenizer(),
        LONG,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "albert": lambda: _text("Albert", bert_tokenizer(segments=True), LONG, embedding_size=8),
    "mpnet": lambda: _text("MPNet", roberta_tokenizer(), LONG),
    "modernbert": lambda: _text("ModernBert", bert_tokenizer(), LONG, local_attention=8, global_attn_every_n_layers=2),
    "gpt2": lambda: _text("GPT2", gpt2_tokenizer(), {"n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 66}),
    "llama": lambda: _text("Llama", llama_tokenizer(), LONG, num_key_value_heads=1),
}


def asked(count: int, seed: int, longest: int = 60) -> list[dict[str, Any]]:
    """Questions on random words, each answered by one to three of them; every fourth has no answer."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words = rng.choice(WORDS.split(), rng.integers(8, longest)).tolist()
        first = int(rng.integers(0, len(words) - 3))
        text = " ".join(words[first : first + int(rng.integers(1, 4))])
        start = len(" ".join(words[:first])) + (first > 0)
        answers = {"text": [], "answer_start": []} if number % 4 == 3 else {"text": [text], "answer_start": [start]}
        question = " ".join(rng.choice(WORDS.split(), 4))
        rows.append({"question": question, "context": " ".join(words), "answers": answers})
    return rows
