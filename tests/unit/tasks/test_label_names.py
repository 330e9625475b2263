"""Class names in any script come through a whole run as they were written."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hftl import Phase, Predictor, Recipe, Trainer
from hftl.cli import main
from hftl.tasks import ImageClassification

NAMES = (
    "🐕‍🦺 dog", "שלום", "مرحبا", "日本語", "q̃́", "Ünïcode", "a|b *c* <d>", "null", "on: off", "#1", "\u202eleft",
    unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"),
)  # fmt: skip
PHASES = (Phase("head", 1, 1e-2),)


def names_of_the_run(folder: Path) -> list[str]:
    config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    started = json.loads((folder / "history.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert started["labels"] == list(config["id2label"].values()) == list(config["label2id"])
    return list(config["id2label"].values())


def test_names_from_a_csv(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f'film {index} {number},"{name}"' for index, name in enumerate(NAMES) for number in range(3)]
    data, run = tmp_path / "data.csv", tmp_path / "run"
    data.write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    main(["fit", "text-classification", "--task.data", str(data), "--model", str(tiny_model("bert")),
          "--phases", "linear-probe", "--phases.0.epochs", "1", "--refit", "False",
          "--output-dir", str(run)])  # fmt: skip
    assert sorted(names_of_the_run(run)) == sorted(NAMES)
    card = (run / "README.md").read_text(encoding="utf-8")
    turned = "\u202eleft"  # what turns the direction of all that follows is left out of what people read
    assert [name for name in NAMES if name not in card.replace("\\", "")] == [turned]
    yaml.safe_load(card.split("---")[1])
    capsys.readouterr()
    main(["predict", str(run), "good film", "--top", "99", "--json"])
    (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert sorted(answer["scores"]) == sorted(NAMES)
    main(["predict", str(run), "good film"])
    assert Predictor(run)("good film")[0]["label"] in capsys.readouterr().out
    scores = Predictor(run).evaluate()  # the data's names are those of the kept head
    assert scores == pytest.approx(json.loads((run / "metrics.json").read_text())["validation"], abs=1e-6)


def test_names_from_folders(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    names = [name for name in NAMES if name != unicodedata.normalize("NFD", "café")]  # some disks have one of the two
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    recipe = Recipe(
        ImageClassification(str(tmp_path / "data")), str(tiny_model("vit")), PHASES, str(tmp_path / "run"),
        batch_size=8, precision="fp32",
    )  # fmt: skip
    Trainer(recipe).fit(display=False)
    assert sorted(names_of_the_run(tmp_path / "run")) == sorted(names)
    answer = Predictor(tmp_path / "run")(str(tmp_path / "data" / names[0] / "0.png"))[0]
    assert sorted(answer["scores"]) == sorted(names)
