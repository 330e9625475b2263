"""Question answering, from the file to the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from zoo import TEXT, asked

from hftl import Phase, Predictor, Recipe, Store, Trainer, prepare
from hftl.cli import main
from hftl.data.batches import Batch
from hftl.records import FeaturesReady, PhaseStarted, RunEnded, StepTaken
from hftl.tasks import ImageClassification, QuestionAnswering, TextClassification
from hftl.tasks.base import NOTHING
from hftl.text import tokens, windows

TinyModel = Callable[[str], Path]
FAMILIES = tuple(TEXT)


def task_on(data: Any, **options: Any) -> QuestionAnswering:
    return QuestionAnswering(data, **{"max_length": 32, "doc_stride": 8, "max_answer_length": 5, **options})


def recipe_for(family: str, squad: Path, tiny_model: TinyModel, folder: Path, **options: Any) -> Recipe[Any]:
    chosen = {"phases": (Phase("all", 1, 1e-3),), "batch_size": 8, "precision": "fp32", **options}
    return Recipe(task_on(str(squad)), str(tiny_model(family)), output_dir=str(folder), **chosen)


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, squad: Path, tiny_model: TinyModel, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("answers") / "run"
    Trainer(recipe_for(request.param, squad, tiny_model, folder)).fit(display=False)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_the_tokens_of_the_answer(family: str, tiny_model: TinyModel) -> None:
    rows = asked(20, 2)
    task = task_on("a")
    tokenizer = task.load_processor(str(tiny_model(family)), False)
    examples = task.examples(datasets.Dataset.from_list(rows), tokenizer, augment=False)
    assert len(examples) > len(rows)
    seen = set()
    for start in range(0, len(examples), 7):
        batch = examples.__getitems__(range(start, min(start + 7, len(examples))))
        assert batch.targets is not None
        assert batch.inputs["input_ids"].shape[1] <= 32
        for place, (first, last) in enumerate(batch.targets.tolist()):
            row = rows[int(batch.extras["question"][place])]
            text, begin = (row["answers"]["text"] or [""])[0], (row["answers"]["answer_start"] or [0])[0]
            shown = batch.extras["begins"][place] >= 0
            covered = batch.extras["begins"][place][shown].min() <= begin
            covered &= batch.extras["ends"][place].max() >= begin + len(text)
            if first == batch.extras["null"][place]:
                assert not text or not covered
                continue
            seen.add(int(batch.extras["question"][place]))
            assert tokenizer.decode(batch.inputs["input_ids"][place, first : last + 1]) == text
            assert batch.extras["begins"][place, first] == begin
            assert batch.extras["ends"][place, last] == begin + len(text)
    assert seen == {number for number, row in enumerate(rows) if row["answers"]["text"]}


def byte_level(texts: list[str], side: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer whose tokens begin with the space before a word, and that has none for no answer."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", padding_side=side, model_max_length=48
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_answers_have_no_space_around_them(side: str) -> None:
    context = "Über  Ada\nLovelace: a 漢字 countess who lived in London, " * 3
    rows = [
        {"question": "Who", "context": context, "answers": {"text": [text], "answer_start": [context.index(text)]}}
        for text in ("Ada\nLovelace", "漢字", "countess", "Über")
    ]
    dataset = datasets.Dataset.from_list(rows)
    tokenizer = byte_level([context], side)
    examples = task_on("a", max_length=48).examples(dataset, tokenizer, augment=False)
    batch = examples.__getitems__(range(len(examples)))
    assert batch.targets is not None
    found = set()
    for place, (first, last) in enumerate(batch.targets.tolist()):
        begins, ends = batch.extras["begins"][place], batch.extras["ends"][place]
        of_text = begins >= 0
        assert not any(
            map(str.isspace, (context[b] + context[e - 1] for b, e in zip(begins[of_text], ends[of_text], strict=True)))
        )
        assert (batch.inputs["attention_mask"][place][of_text] == 1).all()
        if first != batch.extras["null"][place]:
            found.add(context[begins[first] : ends[last]])
    assert found == {row["answers"]["text"][0] for row in rows}
    assert tokenizer.backend_tokenizer.truncation is None


def test_windows_cut_by_several_processes_and_found_again(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = datasets.Dataset.from_list(asked(40, 8))
    tokenizer = task_on("a").load_processor(str(tiny_model("bert")), False)
    alone = windows.cut_windows(dataset, tokenizer, 8)
    monkeypatch.setattr(windows, "ROWS_A_PROCESS", 10)
    monkeypatch.setattr(windows, "usable_cores", lambda: 2)
    monkeypatch.setattr(tokens, "CACHED_ROWS", 10)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    together = windows.cut_windows(dataset, tokenizer, 8)
    assert together.to_list() == alone.to_list()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "hftl").iterdir()}
    assert files
    assert windows.cut_windows(dataset, tokenizer, 8).to_list() == alone.to_list()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "hftl").iterdir()} == files
    windows.cut_windows(dataset, tokenizer, 4)
    assert len([*(tmp_path / "hftl").iterdir()]) > len(files)


def test_steps_are_of_windows(squad: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    recipe = recipe_for("bert", squad, tiny_model, tmp_path / "run", phases=(Phase("all", 2, 1e-3),))
    records = [*Trainer(recipe).run()]
    (started,) = (record for record in records if isinstance(record, PhaseStarted))
    steps = [record for record in records if isinstance(record, StepTaken)]
    assert started.steps_per_epoch > 24 / 8
    assert [step.step for step in steps] == [*range(2 * started.steps_per_epoch)]
    assert all(step.lr >= 0 for step in steps)


def test_narrow_models_learn_faster(squad: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    config = transformers.BertConfig
    factors = [prepare._narrower(QuestionAnswering, config(hidden_size=width)) for width in (1536, 768, 384, 16)]
    assert factors == [0.5, 1.0, 2.0, 3.0]
    assert prepare._narrower(TextClassification, config(hidden_size=384)) == 2.0
    assert prepare._narrower(ImageClassification, config(hidden_size=384)) == 1.0
    recipe = recipe_for("bert", squad, tiny_model, tmp_path / "run", phases=(Phase("head", 1), Phase("all", 1)))
    rates = [record.lr for record in Trainer(recipe).run() if isinstance(record, PhaseStarted)]
    assert rates == [QuestionAnswering.head_lr, pytest.approx(3 * QuestionAnswering.lr)]


def test_every_word_of_the_text_is_in_a_window(tiny_model: TinyModel) -> None:
    rows = asked(6, 3)
    task = task_on("a")
    tokenizer = task.load_processor(str(tiny_model("bert")), False)
    examples = task.examples(datasets.Dataset.from_list(rows), tokenizer, augment=False)
    batch = examples.__getitems__(range(len(examples)))
    for number, row in enumerate(rows):
        own = batch.extras["question"] == number
        begins = {place for place in batch.extras["begins"][own].flatten().tolist() if place >= 0}
        starts = np.cumsum([0, *(len(word) + 1 for word in row["context"].split())])[:-1]
        assert begins == set(starts.tolist())


def test_the_loss_does_not_look_at_padding_or_the_question() -> None:
    extras = {"begins": torch.tensor([[-1, -1, 0, 3, 6, -1, -1]]), "null": torch.tensor([0])}
    batch = Batch({}, torch.tensor([[3, 4]]), torch.tensor([0]), extras=extras)
    loss = task_on("a").objective(None)

    class Given:
        start_logits = torch.tensor([[0.5, 9.0, 1.0, 2.0, 0.0, 9.0, 9.0]], requires_grad=True)
        end_logits = torch.tensor([[0.5, 9.0, 1.0, 0.0, 2.0, 9.0, 9.0]], requires_grad=True)

    seen = torch.tensor([0.5, 1.0, 2.0, 0.0])
    expected = torch.logsumexp(seen, 0) - 2.0
    found = loss(Given, batch)
    torch.testing.assert_close(found, expected[None])
    (gradient,) = torch.autograd.grad(found.sum(), Given.start_logits)
    assert gradient[0, [1, 5, 6]].tolist() == [0, 0, 0]
    assert gradient.isfinite().all()


def test_a_run_answers_and_scores(run: Path) -> None:
    config = json.loads((run / "model" / "config.json").read_text())
    assert isinstance(config["no_answer_threshold"], float)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"f1", "exact_match", "has_answer_f1", "no_answer_accuracy", "forced_f1", "loss"} <= set(
        metrics["validation"]
    )
    assert metrics["majority"]["no_answer_accuracy"] == 1
    assert metrics["validation"]["f1"] >= metrics["majority"]["f1"] - 1e-9  # the threshold may always say nothing
    predictor = Predictor(run)
    assert predictor.evaluate() == pytest.approx(metrics["validation"], abs=1e-6)
    rows = asked(5, 4)
    pairs = [(row["question"], row["context"]) for row in rows]
    for threshold in (-1e9, None):  # never an answer, always one
        predictor._settings["no_answer_threshold"] = threshold
        answers = predictor(pairs)
        assert [answer["name"] for answer in answers] == [row["question"] for row in rows]
        for row, answer in zip(rows, answers, strict=True):
            assert bool(answer["answer"]) == (threshold is None)
            assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
            assert len(answer["answer"].split()) <= 5
            assert answer["scores"][answer["answer"] or NOTHING] == answer["score"]
            assert sum(answer["scores"].values()) <= 1 + 1e-6
    assert "Predictor" in (run / "README.md").read_text()
    assert "never gives an answer" in (run / "README.md").read_text()


def test_windows_of_one_text_answer_as_any_batch_does(run: Path) -> None:
    """Each question alone, and all of them in one call."""
    predictor = Predictor(run)
    pairs = [(row["question"], row["context"]) for row in asked(6, 5)]
    for pair, together in zip(pairs, predictor(pairs), strict=True):
        (alone,) = predictor(question=pair[0], context=pair[1])
        assert alone["answer"] == together["answer"]
        assert alone["scores"] == pytest.approx(together["scores"], abs=1e-5)


@pytest.fixture(scope="module")
def bert_run(squad: Path, tiny_model: TinyModel, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("typed") / "run"
    Trainer(recipe_for("bert", squad, tiny_model, folder)).fit(display=False)
    return folder


def test_from_the_command_line(bert_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = asked(1, 6)[0]
    (tmp_path / "text.txt").write_text(row["context"])
    (tmp_path / "table.csv").write_text(f"question,context\n{row['question']},{row['context']}\n")
    for given in (
        ["--question", row["question"], "--context", row["context"]],
        ["--question", row["question"], "--context", str(tmp_path / "text.txt")],
        [str(tmp_path / "table.csv")],
    ):
        main(["predict", str(bert_run), *given, "--json"])
    first, *others = map(json.loads, capsys.readouterr().out.splitlines())
    assert others == [first, first]
    assert {"name", "answer", "score", "start", "end", "scores"} == set(first)
    main(["predict", str(bert_run), "--question", row["question"], "--context", row["context"]])
    assert "answer" in capsys.readouterr().out
    main(["evaluate", str(bert_run), "--json"])
    assert "f1" in json.loads(capsys.readouterr().out)


def test_mistakes_are_one_line(
    bert_run: Path, tiny_model: TinyModel, tmp_path: Path, one_line_error: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = Predictor(bert_run)
    with one_line_error("no context", "give a question and its context"):
        predictor(question="good film")
    with one_line_error("title", "give question, context"):
        predictor(question="good", context="bad", title="film")
    with one_line_error("a question needs its text", "--context"):
        predictor("good film")
    with one_line_error("no question"):
        predictor([("", "film")])
    with one_line_error("the question has 40 tokens", "--task.max-length"):
        predictor(question="good " * 40, context="film")
    with one_line_error("doc_stride", "at most half"):
        task_on("a", doc_stride=30)
    answers = predictor([("good " * 40, "film"), ("good", "film")])
    assert [answer["name"] for answer in answers] == ["good"]
    assert "40 tokens" in predictor.bad_rows[0].reason
    with pytest.raises(SystemExit):
        main(["predict", str(bert_run), "--question", "good", "--context", "contxt.txt"])
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["predict", str(bert_run), "--question", "good"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    rows = asked(8, 7)
    rows[2]["question"] = "good " * 40
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = task_on(str(tmp_path / "train.jsonl")).load_data(0, str(tiny_model("bert")), False, False)
    (bad,) = splits.bad_rows
    assert (bad.row, "the question has 40 tokens" in bad.reason) == (2, True)


def test_all_answered_data_always_get_an_answer(squad: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        rows = [row for row in map(json.loads, (squad / f"{split}.jsonl").open()) if row["answers"]["text"]]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "run"
    ended = Trainer(recipe_for("distilbert", tmp_path, tiny_model, folder)).fit(display=False)
    assert isinstance(ended, RunEnded)
    assert set(ended.scores["validation"]) == {"f1", "exact_match", "loss"}
    answers = Predictor(folder)([(row["question"], row["context"]) for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert answer["answer"]
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
        assert NOTHING not in answer["scores"]


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_a_head_learns_the_same_from_stored_features(
    family: str, squad: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    found = {}
    for use in (True, False):
        store = Store(use=use, dir=str(tmp_path / "store"))
        phases = (Phase("head", 2, 1e-2),)
        recipe = recipe_for(family, squad, tiny_model, tmp_path / f"run-{use}", phases=phases, store=store)
        trainer: Trainer[Any] = Trainer(recipe)
        records = list(trainer.run())
        assert any(isinstance(record, FeaturesReady) for record in records) == use
        found[use] = records[-1].scores["validation"], trainer.model.state_dict()
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-3)
    for name, tensor in found[True][1].items():
        if name != "qa_outputs.bias":  # it moves all logits alike: its gradient is rounding alone, and Adam follows it
            torch.testing.assert_close(tensor, found[False][1][name], rtol=1e-3, atol=1e-4)
