"""The samples from the true archives, where ``$HFTL_SAMPLES_PACKAGES`` names a folder that holds them."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from hftl import samples
from hftl.samples import data


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
    for name, size in zip(data.SPLITS, (7050, 1510, 1510), strict=True):
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
    for name, size in zip(data.SPLITS, data.DIGIT_SIZES, strict=True):
        assert len(list((real / "data/digits" / name).glob("?/*.png"))) == size
