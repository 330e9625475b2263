"""Pairs of texts, from the file to the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer, pipeline

from hftl import Phase, Predictor, Recipe, Trainer
from hftl.cli import main
from hftl.recipe.recipe import read_yaml
from hftl.tasks import TextClassification, find
from hftl.text.examples import tokenise

TinyModel = Callable[[str], Path]
WORDS = ["good", "bad", "fine", "poor", "great", "awful", "film", "plot", "actor", "scene"]


def texts(count: int, seed: int, longest: int = 40) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of 60 pairs: the label says whether the second text is part of the first."""
    path = tmp_path_factory.mktemp("claims") / "claims.csv"
    firsts, others = texts(60, 0, 12), texts(60, 1, 12)
    rows = [(first, first if row % 2 else others[row], row % 2) for row, first in enumerate(firsts)]
    path.write_text("premise,hypothesis,label\n" + "".join(f"{a},{b},{['no', 'yes'][c]}\n" for a, b, c in rows))
    return path


def run_of(family: str, data: Path, model: Path, folder: Path, **options: Any) -> Path:
    task = TextClassification(str(data), max_length=16, **options)
    phases = (Phase("all", 1, 1e-3),)
    recipe = Recipe(task, str(model), phases, str(folder), batch_size=8, precision="fp32", refit=False)
    Trainer(recipe).fit(display=False)
    return folder


@pytest.fixture(scope="module", params=["bert", "distilbert", "roberta"])
def run(request: pytest.FixtureRequest, tiny_model: TinyModel, claims: Path, tmp_path_factory: Any) -> Path:
    return run_of(request.param, claims, tiny_model(request.param), tmp_path_factory.mktemp("pairs") / "run")


def test_a_pipeline_says_the_same_of_pairs(run: Path) -> None:
    pairs = [("good film", "bad film"), ("bad plot " * 9, "awful"), *zip(texts(9, 2), texts(9, 3), strict=True)]
    ask = pipeline("text-classification", model=str(run / "model"), device="cpu")
    for ours, (first, second) in zip(Predictor(run)(pairs), pairs, strict=True):
        theirs = ask({"text": first, "text_pair": second}, truncation=True, top_k=None)
        assert ours["scores"] == pytest.approx({answer["label"]: answer["score"] for answer in theirs}, abs=1e-5)


def test_the_second_text_reaches_the_model(run: Path) -> None:
    one, other = Predictor(run)([("good film", "good film"), ("good film", "awful plot")])
    assert one["scores"] != pytest.approx(other["scores"], abs=1e-7)


def test_every_way_to_name_a_pair_gives_the_same_answer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = Predictor(run)([("good film", "bad film")])[0]["scores"]
    (tmp_path / "table.csv").write_text("Hypothesis,premise\nbad film,good film\n")
    (tmp_path / "other.csv").write_text("sentence1,sentence2\ngood film,bad film\n")
    (tmp_path / "pair.txt").write_text("good film\n|||\nbad film\n")
    for way in ("good film ||| bad film", *map(str, sorted(tmp_path.iterdir()))):
        assert Predictor(run)(way)[0]["scores"] == pytest.approx(expected, abs=1e-6)
    main(["predict", str(run), "good film ||| bad film", str(tmp_path / "table.csv"), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["good film ||| bad film", f"{tmp_path / 'table.csv'}:0"]
    assert rows[0]["scores"] == pytest.approx(expected, abs=1e-6)


def test_half_a_pair_is_left_out_and_named(run: Path, one_line_error: Any, tmp_path: Path) -> None:
    predictor = Predictor(run)
    assert len(predictor(["good film", ("good", "film"), "good ||| ", " ||| film"])) == 1
    assert [bad.reason for bad in predictor.bad_rows] == [
        "one text, and this run takes two; put ||| between them", "empty text", "empty text"
    ]  # fmt: skip
    with one_line_error("no text to predict", "'good film'", "|||"):
        predictor("good film")
    (tmp_path / "single.csv").write_text("premise\ngood film\n")
    with one_line_error("no known pair", "premise (string)", "--task.pair-column"):
        predictor(str(tmp_path / "single.csv"))


def test_a_run_remembers_that_its_rows_are_pairs(run: Path, claims: Path, tmp_path: Path) -> None:
    assert read_yaml(run / "recipe.yaml", find).task.pairs is True
    assert (
        'answer({"text": "the first text", "text_pair": "the second"}, truncation=True)'
        in (run / "README.md").read_text()
    )
    scores = Predictor(run).evaluate()
    assert scores == pytest.approx(json.loads((run / "metrics.json").read_text())["validation"], abs=1e-6)
    other = datasets.load_dataset("csv", data_files=str(claims), split="train", cache_dir=str(tmp_path))
    renamed = other.rename_columns({"premise": "sentence1", "hypothesis": "sentence2"})
    assert Predictor(run).evaluate(data=renamed) == pytest.approx(Predictor(run).evaluate(data=other))


def test_a_run_on_one_column_of_a_pair_takes_single_texts(
    tiny_model: TinyModel, claims: Path, tmp_path: Path, one_line_error: Any
) -> None:
    run = run_of("bert", claims, tiny_model("bert"), tmp_path / "run", text_column="premise")
    assert read_yaml(run / "recipe.yaml", find).task.pairs is False
    assert Predictor(run)("good film ||| bad film")[0]["name"] == "good film ||| bad film"  # one text
    assert len(Predictor(run)(str(claims))) == 60
    with one_line_error("two texts, and this run takes one"):
        Predictor(run)([("good film", "bad film")])
    assert "text_pair" not in (run / "README.md").read_text()


@pytest.mark.parametrize("truncation", ["head", "tail"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("limit", [8, 15, 16, 31])
def test_pairs_are_cut_as_the_tokenizer_cuts_them(
    limit: int, family: str, truncation: str, tiny_model: TinyModel
) -> None:
    ours = TextClassification(data="a", max_length=limit, truncation=truncation)
    tokenizer = ours.load_processor(str(tiny_model(family)), False)
    rows = datasets.Dataset.from_dict({"text": texts(50, 0), "pair": texts(50, 1)})
    found = tokenise(rows, tokenizer, truncation)
    theirs = AutoTokenizer.from_pretrained(tiny_model(family))
    theirs.truncation_side = {"head": "right", "tail": "left"}[truncation]
    whole = theirs(rows["text"][:], rows["pair"][:], truncation="longest_first", max_length=limit)
    assert found["input_ids"][:] == whole["input_ids"]
    assert ("token_type_ids" in found.column_names) == (family == "bert")
    if family == "bert":
        assert found["token_type_ids"][:] == whole["token_type_ids"]


def test_token_types_are_padded_with_the_rest(tiny_model: TinyModel) -> None:
    task = TextClassification(data="a")
    tokenizer = task.load_processor(str(tiny_model("bert")), False)
    rows = datasets.Dataset.from_dict({"text": ["good", "good film"], "pair": ["bad", "very bad"], "label": [0, 1]})
    inputs = task.examples(rows, tokenizer, augment=False).__getitems__([0, 1]).inputs
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 0]]
    assert inputs["attention_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 7 + [0]]


def test_head_and_tail_of_both_texts(tiny_model: TinyModel) -> None:
    task = TextClassification(data="a", max_length=19, truncation="head+tail")
    tokenizer = task.load_processor(str(tiny_model("bert")), False)
    rows = datasets.Dataset.from_dict({"text": ["film " + "bad " * 20 + "plot"], "pair": ["actor " + "a " * 20 + "it"]})
    examples = task.examples(rows, tokenizer, augment=False)
    words = tokenizer.decode(examples.__getitems__([0]).inputs["input_ids"][0])
    one, two = "film bad bad bad bad bad bad plot", "actor a a a a a a it"
    assert words == f"[CLS] {one} [SEP] {two} [SEP]"
    assert examples.notes == (
        "1 of 1 pairs are longer than 19 tokens; the beginning and end of each text is used, the longer cut first "
        "(--task.max-length, --task.truncation)",
    )


def test_another_second_text_is_tokenised_anew(tiny_model: TinyModel, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("hftl.text.tokens.CACHED_ROWS", 1)
    tokenizer = TextClassification(data="a").load_processor(str(tiny_model("bert")), False)
    rows = datasets.Dataset.from_dict({"text": ["good"], "a": ["film"], "b": ["very bad plot"]})
    kept = [rows, rows.rename_column("a", "pair"), rows.rename_column("b", "pair")]
    lengths = [tokenise(data, tokenizer, "head")["length"][0] for data in kept for _ in range(2)]
    assert lengths == [3, 3, 5, 5, 7, 7]
    assert len(list((tmp_path / "hftl").glob("*.arrow"))) == 3


def test_a_tokenizer_that_puts_nothing_between_is_noted(tiny_model: TinyModel) -> None:
    from tokenizers.processors import TemplateProcessing

    task = TextClassification(data="a")
    tokenizer = task.load_processor(str(tiny_model("distilbert")), False)
    rows = datasets.Dataset.from_dict({"text": ["good"], "pair": ["film"]})
    assert task.examples(rows, tokenizer, augment=False).notes == ()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    (note,) = task.examples(rows, tokenizer, augment=False).notes
    assert "nothing between" in note


def test_options_that_contradict(one_line_error: Any) -> None:
    with one_line_error("pair_column", "'b'", "pairs is false"):
        TextClassification("x", pair_column="b", pairs=False)
    with one_line_error("pair_column", "'b'", "text column too"):
        TextClassification("x", text_column="b", pair_column="b")
