import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hftl import strategies
from hftl.errors import HftlError
from hftl.recipe.recipe import Recipe, to_yaml
from hftl.records import GroupRow, HeadSolved, PhaseStarted, Record, RunStarted, as_plain
from hftl.report import card
from hftl.tasks import AudioClassification, ImageClassification, TextClassification

FILES = ("recipe.yaml", "metrics.json", "environment.json", "history.jsonl")


def scores(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "macro_f1": accuracy - 0.1, "loss": 0.4}


def write_run(
    folder: Path, task: Any = None, model: str = "google/some-model", further: Sequence[Record] = (), **changes: Any
) -> Path:
    """A run folder of two phases."""
    task = task or TextClassification(data="stanfordnlp/imdb")
    recipe = Recipe(task, model, strategies.lp_ft(), output_dir="runs/imdb", seed=7, batch_size=32)
    phases = [
        {"phase": 0, "unfreeze": "head", "best_epoch": 1, "scores": scores(0.8), "seconds": 12.3, "trainable": 100}
        | {"train": "weights", "refit": False},
        {"phase": 1, "unfreeze": "0.25", "best_epoch": 2, "scores": scores(0.9), "seconds": 80.0, "trainable": 5100}
        | {"train": "bias", "refit": False},
    ]
    best = {"phase": 1, "epoch": 2, "refit": False, "error": 0.0123}
    metrics = {"best": best, "majority": {"accuracy": 0.5, "macro_f1": 0.33}, "phases": phases}
    metrics |= {"validation": scores(0.9), "test": scores(0.875), **changes}
    groups = [GroupRow("block 0", 9900, 0, None), GroupRow("head", 100, 100, 1e-3)]
    loaded = {"tensors": 3, "parameters": 9900, "new": ["head.weight"], "dropped": []}
    history = [
        RunStarted(
            "runs/imdb",
            task.name,
            model,
            "cpu",
            "fp32",
            1,
            32,
            7,
            {"train": 1200, "validation": 300},
            ["[neg](x)", "p|os"],
            ["2 rows *skipped*"],
            loaded,
            metrics["majority"],
        ),
        PhaseStarted(0, "head", 3, 38, 1e-3, groups),
        PhaseStarted(1, "0.25", 4, 38, 5e-5, groups),
        *further,
    ]
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "environment.json").write_text(
        json.dumps({"python": "3.11.2", "platform": "a|b", "command": "hftl fit /home/ann"})
    )
    (folder / "history.jsonl").write_text("".join(json.dumps(as_plain(record)) + "\n" for record in history))
    return folder


def parts(path: Path) -> tuple[dict[str, Any], str]:
    """Front matter and body of a card."""
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def rows_under(body: str, heading: str) -> list[list[str]]:
    """The cells of the table in a section, without its rule."""
    section = re.split(r"^## ", body, flags=re.MULTILINE)
    (found,) = [text for text in section if text.startswith(heading + "\n")]
    lines = [line for line in found.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for index, line in enumerate(lines) if index != 1
    ]


def test_front_matter_is_a_hub_model_card(tmp_path):
    path = card.write(write_run(tmp_path / "imdb"))
    assert path == tmp_path / "imdb" / "README.md"
    data = ModelCard.load(path).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert data.base_model == "google/some-model"
    assert data.tags == ["hftl", "transfer-learning"]
    assert data.model_name == "imdb"
    results = {
        (each.dataset_name, each.dataset_split, each.metric_type): each.metric_value for each in data.eval_results
    }
    assert results == {
        ("stanfordnlp/imdb", split, name): value
        for split, accuracy in (("validation", 0.9), ("test", 0.875))
        for name, value in scores(accuracy).items()
    }


def test_scores_run_from_the_majority_to_the_saved_model(tmp_path):
    _, body = parts(card.write(write_run(tmp_path)))
    assert rows_under(body, "Scores") == [
        ["", "split", "accuracy", "macro_f1", "loss"],
        ["majority", "validation", "0.500", "0.330", ""],
        ["phase 0: head", "validation", "0.800", "0.700", "0.400"],
        ["phase 1: top 25 % of the blocks, bias", "validation", "0.900", "0.800", "0.400"],
        ["**saved model**", "validation", "0.900", "0.800", "0.400"],
        ["**saved model**", "test", "0.875", "0.775", "0.400"],
    ]
    assert "that of phase 1, epoch 2" in body
    assert "where its first score is sure to ± 0.012 (one standard error)" in body
    assert "all rows" not in body


def test_training_is_a_row_for_each_phase(tmp_path):
    _, body = parts(card.write(write_run(tmp_path)))
    assert [row[1:] for row in rows_under(body, "Training")[1:]] == [
        ["100 of 10,000 parameters (1 %)", "3 epochs x 38 steps", "1", "1e-3", "12 s"],
        ["5,100 of 10,000 parameters (51 %)", "4 epochs x 38 steps", "2", "5e-5", "1 min 20 s"],
    ]
    assert "Batch size 32, seed 7" in body


def test_a_solved_head_and_the_second_pass_on_all_rows(tmp_path):
    """The scores of the model that was chosen, and what was made of it then."""
    first, second = (
        {"phase": phase, "unfreeze": "head", "train": "weights", "best_epoch": None, "scores": found}
        | {"seconds": 1.0, "trainable": 100, "refit": phase == 1}
        for phase, found in enumerate([scores(0.8), {}])
    )
    groups = [GroupRow("block 0", 9900, 0, None), GroupRow("head", 100, 100, 3e-4)]
    folder = write_run(
        tmp_path,
        phases=[first, second],
        best={"phase": 0, "epoch": None, "refit": True, "error": None},
        further=[
            PhaseStarted(0, "head", 0, 38, 3e-4, groups, solver="lbfgs"),
            HeadSolved(0, "head", 1200, 50, 0.01, 1.25, 5, scores(0.75), 0.5),
            PhaseStarted(1, "head", 0, 47, 3e-4, groups, solver="lbfgs", refit=True),
            HeadSolved(1, "head", 1500, 50, 0.008, 1.2, 5, scores(0.78), 0.5),
        ],
    )
    _, body = parts(card.write(folder))
    assert [row[:3] for row in rows_under(body, "Scores")[1:]] == [
        ["majority", "validation", "0.500"],
        ["phase 0: head", "validation", "0.800"],
        ["**chosen model**", "validation", "0.900"],
        ["**saved model**", "test", "0.875"],
    ]
    assert "that of phase 0, the solved head (both count from 0), chosen on the validation split." in body
    assert "trained once more from the checkpoint, in the same way, on all rows" in body
    assert [row[:-1] for row in rows_under(body, "Training")[1:]] == [
        ["phase 0: head", "100 of 10,000 parameters (1 %)", "solved", "solved", ""],
        ["phase 1: head, on all rows", "100 of 10,000 parameters (1 %)", "solved", "solved", ""],
    ]
    solved = "head solved for 1,500 rows of 50 features, L2 penalty 0.008 and temperature 1.200 chosen by 5 folds"
    assert f"Phase 1: {solved}." in body


def test_a_users_words_are_no_markdown(tmp_path):
    _, body = parts(card.write(write_run(tmp_path)))
    assert r"- **Labels** (2): \[neg\](x), p\|os" in body
    assert r"- 2 rows \*skipped\*" in body
    assert rows_under(body, "Environment")[1:] == [["python", "`3.11.2`"], ["platform", r"`a\|b`"]]


@pytest.mark.parametrize(
    ("task", "call"),
    [
        (TextClassification(data="imdb"), 'pipeline("text-classification", model="model")'),
        (TextClassification(data="imdb"), "truncation=True)"),
        (ImageClassification(data="pets"), 'pipeline("image-classification", model="model")'),
        (ImageClassification(data="pets"), 'answer("photo.jpg")'),
    ],
)
def test_the_snippet_fits_the_task_and_is_python(tmp_path, task, call):
    _, body = parts(card.write(write_run(tmp_path, task)))
    (snippet,) = re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
    compile(snippet, "card", "exec")
    assert call in snippet


def test_a_local_model_and_data_are_no_hub_names_and_show_no_path(tmp_path, monkeypatch):
    (tmp_path / "models" / "mini").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for model in ("models/mini", "./models/mini", str(tmp_path / "models" / "mini")):
        front, body = parts(card.write(write_run(tmp_path / "run", ImageClassification(data="/home/ann/pets"), model)))
        assert "base_model" not in front
        assert front["model-index"][0]["results"][0]["dataset"]["name"] == "pets"
        assert "from `mini`, for image-classification on `pets`" in body
        assert "huggingface.co" not in body


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert-base-uncased", True),
        ("google/vit", True),
        ("./vit", False),
        ("/a/vit", False),
        ("a/b/c", False),
        ("~/a", False),
    ],
)
def test_what_looks_like_a_hub_name(name, expected):
    assert card.is_hub_name(name) is expected


def test_the_use_of_sounds_says_what_hftl_makes_of_longer_and_shorter_recordings(tmp_path):
    _, body = parts(card.write(write_run(tmp_path, AudioClassification(data="calls", seconds=2.5))))
    said = " ".join(body.partition("## Use")[2].split())
    assert "may answer otherwise than `hftl predict`" in said
    assert "in windows of 2.5 s, with silence after what is shorter" in said
    assert "reads files with ffmpeg" in said
    _, body = parts(card.write(write_run(tmp_path / "texts")))
    assert "silence" not in body


def test_a_pretrained_model_without_test_split(tmp_path):
    best = {"phase": None, "epoch": None, "refit": False, "error": None}
    folder = write_run(tmp_path, best=best, phases=[])
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["test"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    front, body = parts(card.write(folder))
    assert [each["dataset"]["split"] for each in front["model-index"][0]["results"]] == ["validation"]
    assert [row[0] for row in rows_under(body, "Scores")] == ["", "majority", "**saved model**"]
    assert "The pretrained model [google/some-model]" in body
    assert "None: the pretrained model was scored as it is." in body
    assert "The saved model is the pretrained one" in body


def test_data_given_in_python_are_said_to_be(tmp_path):
    folder = write_run(tmp_path)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["task"]["data"] = "<DatasetDict: train 0123, test 4567>"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    front, body = parts(card.write(folder))
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "data given in Python"
    assert "with `--task.data`" in body


def test_a_score_that_is_no_number_is_not_in_the_results(tmp_path):
    front, body = parts(card.write(write_run(tmp_path, test={"accuracy": 0.5, "loss": float("nan")})))
    assert front["model-index"][0]["results"][1]["metrics"] == [{"type": "accuracy", "value": 0.5}]
    assert rows_under(body, "Scores")[-1] == ["**saved model**", "test", "0.500", "", "nan"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_broken_file_is_named(tmp_path, name):
    folder = write_run(tmp_path)
    for text in ("[1]", "{", None):
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
        with pytest.raises(HftlError, match=re.escape(name)) as caught:
            card.write(folder)
        assert "\n" not in str(caught.value)
    assert not (folder / "README.md").exists()


def test_writing_again_changes_nothing(tmp_path):
    folder = write_run(tmp_path)
    first = card.write(folder).read_bytes()
    assert card.write(folder).read_bytes() == first
    assert sorted(path.name for path in folder.iterdir()) == sorted(["README.md", *FILES])
