"""The sample data sets: splits and reviews on made-up rows, folders from made-up archives, scikit-learn's digits."""

import csv
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hftl.errors import HftlError
from hftl.samples import data, make_samples


def test_splits_are_disjoint_complete_and_stratified():
    labels = ["negative"] * 531 + ["positive"] * 469
    sizes = [700, 150, 150]
    splits = data.stratified_split(labels, sizes, seed=3)
    assert [len(split) for split in splits] == sizes
    assert sorted(index for split in splits for index in split) == list(range(1000))
    for split in splits:
        for length in (40, len(split)):
            count = sum(labels[index] == "negative" for index in split[:length])
            assert abs(count - 0.531 * length) <= 2


def test_split_depends_on_the_seed_alone():
    labels = [str(index % 10) for index in range(200)]
    first = data.stratified_split(labels, [150, 50], seed=0)
    assert first == data.stratified_split(labels, [150, 50], seed=0)
    assert first != data.stratified_split(labels, [150, 50], seed=1)
    assert first[0] != sorted(first[0])


def test_split_sizes_must_add_up():
    with pytest.raises(ValueError, match=r"\[2, 2\] do not add up to 3 rows"):
        data.stratified_split(["a", "b", "a"], [2, 2], seed=0)


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
    assert data.movie_reviews("\r\n".join(lines)) == [
        ("Lovely & Amazing is just that.", "positive"),
        ("Too caf\xe9.", "negative"),
        ("Twice.", "positive"),
        ('Awful, "just" awful.', "negative"),
    ]


@pytest.mark.parametrize("line", ["2\t1.0", "2\thigh\tText.", "2\t1.0\tText.\tmore"])
def test_movie_reviews_names_a_bad_line(line):
    with pytest.raises(HftlError, match="line 2 of the movie reviews"):
        data.movie_reviews(f"1\t1.0\tGood.\n{line}")


def test_reviews_from_an_archive_within_an_archive(only, serve, tar_gz, tmp_path):
    lines = [f'{number}\t{(-1) ** number}\tFilm, "number" {number} caf\xe9' for number in range(100)]
    inner = tar_gz(data._VADER_SNIPPETS, "\r\n".join(lines).encode())
    packages = serve(data, "VADER", tar_gz(data._VADER_DATA, inner))
    only("data/movie-reviews")
    said = []
    (folder,) = make_samples(tmp_path / "out", packages, said.append)

    rows = {}
    for name in data.SPLITS:
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows[name] = list(csv.DictReader(file))
    assert {name: len(split) for name, split in rows.items()} == {"train": 70, "validation": 15, "test": 15}
    everything = [(row["text"], row["label"]) for split in rows.values() for row in split]
    assert sorted(everything) == sorted(data.movie_reviews("\n".join(lines)))
    assert len({text for text, _ in everything}) == 100
    assert said == [f"{folder}: snippets: train 70, validation 15, test 15"]


def test_digits_are_scikit_learns(only, tmp_path):
    from sklearn.datasets import load_digits

    only("data/digits")
    (folder,) = make_samples(tmp_path, say=lambda line: None)
    digits = load_digits()
    files = sorted(folder.glob("*/*/*.png"))
    assert sorted(int(file.stem) for file in files) == list(range(1797))
    assert Counter(file.parts[-3] for file in files) == dict(zip(data.SPLITS, data.DIGIT_SIZES, strict=True))
    for label in map(str, range(10)):
        share = (digits.target == int(label)).mean()
        for name, size in zip(data.SPLITS, data.DIGIT_SIZES, strict=True):
            assert abs(len(list((folder / name / label).iterdir())) - share * size) <= 2
    for file in files[::50]:
        index = int(file.stem)
        assert int(file.parts[-2]) == digits.target[index]
        with Image.open(file) as image:
            assert image.mode == "L"
            assert np.abs(np.asarray(image) / 255 * 16 - digits.images[index]).max() < 0.04
