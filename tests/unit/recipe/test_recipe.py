from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict

from hftl import strategies, tasks
from hftl.recipe.phase import Phase
from hftl.recipe.recipe import Recipe, describe_object, from_dict, read_yaml, to_dict, to_yaml
from hftl.tasks import ImageClassification, TextClassification

TASK = {"name": "text-classification", "data": "data/reviews.csv"}
PLAIN = {"task": TASK, "model": "models/bert"}


def read(plain: object) -> Recipe:
    return from_dict(plain, tasks.find, "my.yaml")


def from_text(text: str, folder: Path) -> Recipe:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_yaml(folder / "recipe.yaml", tasks.find)


# -- round trip ------------------------------------------------------------------------------------------------------

RECIPES = {
    "defaults": Recipe(task=ImageClassification(data="data/pets"), model="google/vit"),
    "label columns": Recipe(
        task=ImageClassification("pets", label_columns=("no", "1e-3"), logit_adjustment=0.5), model="google/vit"
    ),
    "everything": Recipe(
        task=TextClassification(
            data="no",  # what YAML would read as False
            subset="1e-3",
            label_column="null",
            max_rows=100,
            validation_fraction=0.125,
            bad_rows="error",
            lone_labels="keep",
            label_map={"LABEL_0": "schlecht: sehr", "yes": "gut # wirklich", "7": "'quoted'\nand broken"},
            label_smoothing=1e-5,
            metrics=("accuracy", "./my metric.py"),
            text_column="Übersicht 文",
            max_length=64,
            truncation="head+tail",
        ),
        model="2020-01-01",
        phases=(
            Phase("head", 2, 3e-5),
            Phase(4, 1, 1e-7, 0.9, 0.0, "cosine", 0.0, "update", patience=2, head_scale=1e-2),
            Phase("neck", solver="lbfgs", penalty=1e-5, temperature=2.0),
            Phase(0.25, schedule="constant"),
            Phase(1.0),
            Phase("all"),
        ),
        output_dir="~/läufe/1",
        seed=2**40,
        clip_norm=None,
        keep_head=True,
        precision="bf16",
        best_by="loss",
        batch_size=8,
        refit=False,
        layer_groups={r"^a\.(b|c)$": "stem", "x": "block 3"},
        trust_remote_code=True,
    ),
    "no phases": Recipe(task=ImageClassification(data="a"), model="b", phases=()),
}


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_round_trip_is_the_identity(name, tmp_path):
    recipe = RECIPES[name]
    text = to_yaml(recipe)
    back = from_text(text, tmp_path)
    assert back == recipe
    assert type(back.task) is type(recipe.task)
    assert to_yaml(back) == text
    assert read(to_dict(recipe)) == recipe


@pytest.mark.parametrize("name", strategies.NAMED)
def test_named_strategies_survive_yaml(name, tmp_path):
    recipe = Recipe(task=TextClassification(data="a"), model="b", phases=strategies.by_name(name))
    assert from_text(to_yaml(recipe), tmp_path).phases == recipe.phases


def test_a_depth_keeps_its_type(tmp_path):
    recipe = Recipe(task=TextClassification(data="a"), model="b", phases=(Phase(1), Phase(1.0)))
    depths = [phase.unfreeze for phase in from_text(to_yaml(recipe), tmp_path).phases]
    assert [type(depth) for depth in depths] == [int, float]  # one block, and all of them


def test_yaml_is_for_people():
    lines = to_yaml(RECIPES["everything"]).splitlines()
    assert lines[:3] == ["task:", "  name: text-classification", "  data: 'no'"]
    assert "  text_column: Übersicht 文" in lines
    assert "output_dir: ~/läufe/1" in lines
    assert not any("!!" in line for line in lines)


def test_paths_and_numpy_numbers_are_written_as_what_they_stand_for(tmp_path):
    recipe = Recipe(
        task=ImageClassification(data=Path("data/pets")),
        model=Path("models/vit"),  # type: ignore[arg-type]
        phases=(Phase(np.int64(2), lr=np.float64(0.5)),),  # type: ignore[arg-type]
    )
    back = from_text(to_yaml(recipe), tmp_path)
    assert (back.task.data, back.model) == ("data/pets", "models/vit")
    assert back.phases == (Phase(2, lr=0.5),)


# -- data handed in as objects ---------------------------------------------------------------------------------------


def test_data_objects_are_named_by_fingerprint():
    train = Dataset.from_dict({"text": ["a"], "label": [0]})
    test = Dataset.from_dict({"text": ["b"], "label": [1]})
    assert describe_object(train) == f"<Dataset: train {train._fingerprint}>"
    for splits in ({"train": train, "test": test}, DatasetDict(train=train, test=test)):
        expected = f"<{type(splits).__name__}: train {train._fingerprint}, test {test._fingerprint}>"
        recipe = Recipe(task=TextClassification(data=splits), model="m")
        assert yaml.safe_load(to_yaml(recipe))["task"]["data"] == expected


def test_other_rows_have_another_description():
    one, two = (Dataset.from_dict({"text": [text]}) for text in "ab")
    assert describe_object(one) != describe_object(two)


# -- what is wrong with a recipe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batchsize": 3}, ("'batchsize'", "did you mean 'batch_size'?")),
        ({"phases": [{"unfreze": 1}]}, ("'phases.0.unfreze'", "did you mean 'unfreeze'?")),
        ({"phases": [{}, {"learning_rate": 1}]}, ("'phases.1.learning_rate'", "there are unfreeze, epochs, lr")),
        ({"task": {**TASK, "max_lenght": 3}}, ("'task.max_lenght'", "did you mean 'max_length'?")),
        ({"task": {**TASK, "crop_area": 0.5}}, ("'task.crop_area'", "is no option")),  # of another task
        ({"q": 1}, ("'q' is no option", "there are task, model, phases")),
        ({1: 1}, ("'1'",)),
    ],
)
def test_unknown_keys(change, words, one_line_error):
    with one_line_error("my.yaml:", *words):
        read({**PLAIN, **change})


def test_a_misspelt_key_is_named_before_what_is_missing_by_it(one_line_error):
    with one_line_error("my.yaml: 'modle' is no option; did you mean 'model'?"):
        read({"task": TASK, "modle": "models/bert"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": "many"}, ("'batch_size'", "'many'")),
        ({"batch_size": 2.5}, ("'batch_size'", "2.5")),
        ({"eval_batch_size": None}, ("'eval_batch_size'", "None")),
        ({"refit": "perhaps"}, ("'refit'", "'perhaps'")),
        ({"phases": [{"solver": "newton"}]}, ("'phases.0.solver'", "'newton'", "'lbfgs'")),
        ({"model": 3}, ("'model'", "3")),
        ({"precision": "fp8"}, ("'precision'", "'fp8'", "'bf16'")),
        ({"keep_head": "perhaps"}, ("'keep_head'", "'perhaps'")),
        ({"phases": 3}, ("'phases'", "3")),
        ({"phases": {"unfreeze": 1}}, ("'phases'",)),
        ({"phases": [3]}, ("'phases.0'", "3")),
        ({"phases": [{"epochs": "all"}]}, ("'phases.0.epochs'", "'all'")),
        ({"phases": [{"schedule": "sine"}]}, ("'phases.0.schedule'", "'sine'", "'cosine'")),
        ({"layer_groups": ["stem"]}, ("'layer_groups'",)),
        ({"task": {**TASK, "metrics": "accuracy"}}, ("'task.metrics'", "'accuracy'")),
        ({"task": {**TASK, "label_map": {False: "bad"}}}, ("task.label_map", "False")),
    ],
)
def test_wrong_types(change, words, one_line_error):
    with one_line_error("my.yaml:", *words):
        read({**PLAIN, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": -1}, ("seed: -1", "at least 0")),
        ({"batch_size": 0}, ("batch_size: 0", "at least 1")),
        ({"eval_batch_size": 0}, ("eval_batch_size: 0",)),
        ({"accumulation": 0}, ("accumulation: 0",)),
        ({"accumulation": 9, "batch_size": 8}, ("accumulation: 9", "8 rows")),
        ({"refit": True, "phases": []}, ("refit:", "no phases")),
        ({"workers": -1}, ("workers: -1", "at least 0")),
        ({"log_every": 0}, ("log_every: 0",)),
        ({"head_dropout": 1.0}, ("head_dropout: 1.0", "below 1")),
        ({"head_dropout": -0.1}, ("head_dropout: -0.1",)),
        ({"phases": [{"lr": -1}]}, ("lr: -1.0", "at least 0")),
        ({"phases": [{"unfreeze": "4"}]}, ("unfreeze: '4'",)),
        ({"task": {**TASK, "max_length": 3}}, ("max_length: 3",)),
        ({"task": {**TASK, "label_smoothing": 1}}, ("label_smoothing: 1",)),
        ({"task": {**TASK, "validation_fraction": 0}}, ("validation_fraction: 0",)),
        ({"task": {**TASK, "max_rows": 1}}, ("max_rows: 1",)),
        ({"task": {**TASK, "balance": "weight"}}, ("'task.balance'", "'sampler'")),
        ({"task": {**TASK, "label_columns": ["a", "a"]}}, ("label_columns:", "twice")),
        ({"task": {**TASK, "label_columns": ["a"], "label_column": "b"}}, ("label_columns:", "label_column")),
        ({"task": {**TASK, "label_columns": ["a"], "label_separator": "|"}}, ("label_columns:", "label_separator")),
        ({"task": {**TASK, "label_separator": ""}}, ("label_separator:", "empty")),
        ({"task": {**TASK, "focal_gamma": -1}}, ("focal_gamma: -1", "at least 0")),
        ({"task": {**TASK, "logit_adjustment": -1}}, ("logit_adjustment: -1", "at least 0")),
        ({"task": {**TASK, "logit_adjustment": 1, "balance": "sampler"}}, ("logit_adjustment and balance sampler",)),
        ({"task": {"name": "image-classification", "data": "a", "crop_area": 0}}, ("crop_area: 0",)),
    ],
)
def test_values_out_of_range(change, words, one_line_error):
    with one_line_error("my.yaml:", *words):
        read({**PLAIN, **change})


@pytest.mark.parametrize("plain", [None, [], "text", {}, {"model": "m"}, {"task": "text-classification"}, {"task": {}}])
def test_no_task(plain, one_line_error):
    with one_line_error("my.yaml: it names no task", "task: {name: image-classification"):
        read(plain)


def test_phases_may_be_the_name_of_a_strategy(one_line_error):
    assert read({**PLAIN, "phases": "gradual"}).phases == strategies.gradual()
    with one_line_error("my.yaml:", "'gradul'", "lp-ft, gradual"):
        read({**PLAIN, "phases": "gradul"})


def test_an_unknown_task(one_line_error):
    with one_line_error(
        "video-classification: no such task", "image-classification, question-answering, text-classification"
    ):
        read({**PLAIN, "task": {"name": "video-classification"}})


@pytest.mark.parametrize(
    ("plain", "place"), [({"task": TASK}, "'model'"), ({"task": {"name": TASK["name"]}, "model": "m"}, "'task.data'")]
)
def test_what_is_missing(plain, place, one_line_error):
    with one_line_error(f"my.yaml: {place} is missing"):
        read(plain)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["3e-5", "3.0e-5", "0.00003", "'3e-5'"])
def test_a_small_number_as_people_write_it(number, tmp_path):
    # YAML 1.1, which PyYAML reads, takes 3e-5 for a text
    text = f"task: {{name: text-classification, data: a}}\nmodel: b\nphases: [{{unfreeze: all, lr: {number}}}]\n"
    assert from_text(text, tmp_path).phases[0].lr == 3e-5


def test_a_missing_file(tmp_path, one_line_error):
    with one_line_error(str(tmp_path / "absent.yaml"), "No such file"):
        read_yaml(tmp_path / "absent.yaml", tasks.find)


@pytest.mark.parametrize(
    "content", [b"task: {name: [", b"\xff\xfe\x00", b"a: !!python/object:os.system {}", b"a: b: c"]
)
def test_a_file_that_is_not_yaml(content, tmp_path, one_line_error):
    (tmp_path / "bad.yaml").write_bytes(content)
    with one_line_error(str(tmp_path / "bad.yaml"), "not YAML"):
        read_yaml(tmp_path / "bad.yaml", tasks.find)


def test_the_new_options_have_ranges(one_line_error):
    for ema in (0.0, 1.0, -1.0):
        with one_line_error("ema", str(ema), "0.999"):
            Recipe(task=TextClassification(data="a"), model="b", ema=ema)
    with one_line_error("gradient_checkpointing", "batch_norm: update"):
        Recipe(
            task=TextClassification(data="a"),
            model="b",
            phases=(Phase("all", batch_norm="update"),),
            gradient_checkpointing=True,
        )


def test_a_group_of_options_survives_yaml(tmp_path):
    from hftl.tasks import AudioClassification
    from hftl.tasks.audio_classification import Mel

    recipe = Recipe(AudioClassification("x", mel=Mel(n_mels=64, image_size=(64, 96))), "model")
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert read_yaml(tmp_path / "recipe.yaml", tasks.find) == recipe
