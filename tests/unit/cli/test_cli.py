"""What people type: options, precedence, one line for every mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hftl import strategies
from hftl.cli import main, parse_recipe
from hftl.errors import HftlError

TinyModel = Callable[[str], Path]
RECIPE = """\
task: {name: text-classification, data: reviews.csv, max_length: 32}
model: somewhere
seed: 7
phases:
  - {unfreeze: neck, epochs: 2, lr: 1e-3}
  - {unfreeze: 0.5, epochs: 1}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command is refused."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hftl: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out
    return captured.err


class TestPrecedence:
    """YAML < --phases NAME < single options."""

    def test_yaml_alone(self, config: Path) -> None:
        recipe = parse_recipe(["--config", str(config)])
        assert (recipe.seed, recipe.task.max_length, len(recipe.phases)) == (7, 32, 2)
        assert (recipe.phases[0].lr, recipe.phases[1].unfreeze) == (1e-3, 0.5)

    def test_single_options_go_before_the_file(self, config: Path) -> None:
        recipe = parse_recipe(["--config", str(config), "--phases.1.lr", "3e-5", "--task.max-length", "64"])
        assert (recipe.phases[1].lr, recipe.phases[1].unfreeze, recipe.task.max_length) == (3e-5, 0.5, 64)
        assert recipe.phases[0].lr == 1e-3

    def test_a_strategy_goes_before_the_file_and_options_before_the_strategy(self, config: Path) -> None:
        recipe = parse_recipe(["--config", str(config), "--phases.3.epochs", "9", "--phases", "gradual"])
        assert recipe.phases[:3] == strategies.gradual()[:3]
        assert recipe.phases[3].epochs == 9
        assert recipe.seed == 7

    @pytest.mark.parametrize(("typed", "depth"), [("head", "head"), ("4", 4), ("0.25", 0.25), ("all", "all")])
    def test_depths(self, config: Path, typed: str, depth: object) -> None:
        assert parse_recipe(["--config", str(config), "--phases.0.unfreeze", typed]).phases[0].unfreeze == depth

    def test_no_phases_at_all(self) -> None:
        arguments = ["--task.data", "x", "--model", "y", "--phases", "pretrained"]
        assert parse_recipe(arguments, "image-classification").phases == ()

    def test_the_file_must_be_for_the_task(self, config: Path) -> None:
        with pytest.raises(HftlError, match="text-classification, not for image-classification"):
            parse_recipe(["--config", str(config)], "image-classification")

    def test_maps_and_lists(self) -> None:
        arguments = [
            "--task.data",
            "x",
            "--model",
            "y",
            "--task.label-map",
            "LABEL_0",
            "neg",
            "--task.metrics",
            "macro_f1",
            "--task.label-columns",
            "toxic",
            "threat",
        ]
        task = parse_recipe(arguments, "text-classification").task
        assert (task.label_map, task.metrics) == ({"LABEL_0": "neg"}, ("macro_f1",))
        assert task.label_columns == ("toxic", "threat")


class TestOneLine:
    """Every mistake names the thing and the mend, in one line, with exit code 2."""

    def test_typos_in_options(self, capsys: pytest.CaptureFixture[str], config: Path) -> None:
        assert "--phases.1.lr?" in refused(capsys, "fit", str(config), "--phases.1.lrr", "3e-5")
        assert "did you mean --task.data?" in refused(
            capsys, "fit", "image-classification", "--task.dat", "x", "--model", "y"
        )
        assert "--seed" in refused(capsys, "fit", str(config), "--seed", "seven")
        assert "--precision" in refused(capsys, "fit", str(config), "--precision", "fp61")

    def test_typos_in_yaml(self, capsys: pytest.CaptureFixture[str], config: Path) -> None:
        config.write_text(RECIPE.replace("epochs: 2", "epoch: 2"))
        assert "'phases.0.epoch' is no option; did you mean 'epochs'?" in refused(capsys, "fit", str(config))
        config.write_text(RECIPE.replace("max_length", "max_lenght"))
        assert "did you mean 'max_length'?" in refused(capsys, "fit", str(config))
        config.write_text(RECIPE.replace("seed", "sed"))
        assert "did you mean 'seed'?" in refused(capsys, "fit", str(config))
        config.write_text("task: [unclosed")
        assert "not YAML" in refused(capsys, "fit", str(config))

    def test_names(self, capsys: pytest.CaptureFixture[str], config: Path) -> None:
        assert "image-classification" in refused(capsys, "fit", "image-clasification")
        assert "lp-ft" in refused(capsys, "fit", str(config), "--phases", "lpft")
        assert "evaluate" in refused(capsys, "evaluat")
        assert "nowhere.yaml" in refused(capsys, "fit", "nowhere.yaml")

    def test_values_out_of_range(self, capsys: pytest.CaptureFixture[str], config: Path) -> None:
        assert "batch_size" in refused(capsys, "fit", str(config), "--batch-size", "0")
        assert "unfreeze" in refused(capsys, "fit", str(config), "--phases.0.unfreeze", "haed")
        assert "clip_norm" in refused(capsys, "fit", str(config), "--clip-norm", "0")
        assert "label_smoothing" in refused(capsys, "fit", str(config), "--task.label-smoothing", "2")

    def test_data(self, capsys: pytest.CaptureFixture[str], tiny_model: TinyModel, tmp_path: Path) -> None:
        model = ["--model", str(tiny_model("bert")), "--output-dir", str(tmp_path / "run")]
        text = ["fit", "text-classification", *model, "--task.data"]
        assert "no such file or folder" in refused(capsys, *text, str(tmp_path / "nowhere"))
        (tmp_path / "a.csv").write_text("text,stars_given_at_night\ngood film,\nbad film,\n")
        assert "label" in refused(capsys, *text, str(tmp_path / "a.csv"))
        folder = tmp_path / "splits"
        folder.mkdir()
        (folder / "train.csv").write_text("text,label\ngood film,pos\nbad film,neg\n")
        (folder / "test.csv").write_text("text,label\ngood film,pos\nfine film,meh\n")
        assert "'meh'" in refused(capsys, *text, str(folder))
        assert not (tmp_path / "run").exists()

    def test_models(
        self, capsys: pytest.CaptureFixture[str], tiny_model: TinyModel, photos: Path, tmp_path: Path
    ) -> None:
        fit = [
            "fit",
            "image-classification",
            "--task.data",
            str(photos),
            "--output-dir",
            str(tmp_path / "run"),
            "--model",
        ]
        assert "bert" in refused(capsys, *fit, str(tiny_model("bert")))
        assert "nowhere" in refused(capsys, *fit, str(tmp_path / "nowhere"))
        (tmp_path / "empty").mkdir()
        assert "empty" in refused(capsys, *fit, str(tmp_path / "empty"))
        assert not (tmp_path / "run").exists()

    def test_runs(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert "no run lies there" in refused(capsys, "evaluate", str(tmp_path))
        assert "no run lies there" in refused(capsys, "predict", str(tmp_path), "x")
        assert "what to predict" in refused(capsys, "predict", str(tmp_path))

    def test_resume_says_that_it_is_not_there_yet(self, capsys: pytest.CaptureFixture[str], config: Path) -> None:
        assert "not built yet" in refused(capsys, "fit", str(config), "--resume")


def test_a_run_from_the_command_line_end_to_end(
    capsys: pytest.CaptureFixture[str], tiny_model: TinyModel, reviews: Path, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    common = ["text-classification", "--task.data", str(reviews), "--model", str(tiny_model("distilbert"))]
    main(["plan", *common, "--output-dir", run])
    said = capsys.readouterr().out
    assert "phase 0" in said
    assert "phase 1" in said
    assert "steps in all" in said
    assert not Path(run).exists()
    main(["fit", *common, "--output-dir", run, "--batch-size", "16"])
    said = capsys.readouterr().out
    assert "chosen model" in said
    assert "trained once more on all rows" in said
    main(["evaluate", run, "--json"])
    captured = capsys.readouterr()
    assert set(json.loads(captured.out)) == {"accuracy", "macro_f1", "loss"}
    assert "trained once more on all rows, those of validation included" in captured.err
    main(["predict", run, "a good film", "a bad film", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["a good film", "a bad film"]
    main(["predict", run, "a very long film " * 20])
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert re.search(r"a very long .*…\s+(positive|negative)\s+0\.\d{3}", line)  # the answer has its room
    main(["predict", run, "[red]a good film[/red]"])
    assert "[red]a good film[/red]" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", *common, "--output-dir", run])
    assert "not empty" in capsys.readouterr().err


def test_predict_says_what_it_left_out(
    capsys: pytest.CaptureFixture[str], tiny_model: TinyModel, photos: Path, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    options = ["--task.data", str(photos), "--model", str(tiny_model("vit")), "--phases", "linear-probe"]
    main(["fit", "image-classification", *options, "--output-dir", run, "--phases.0.epochs", "1"])
    capsys.readouterr()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    main(["predict", run, str(photos / "test" / "red" / "0.png"), str(tmp_path / "broken.jpg"), "--json"])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert "left out" in captured.err
    assert "broken.jpg" in captured.err


def test_layers_needs_no_weights(capsys: pytest.CaptureFixture[str], tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model("vit") / "config.json").read_text())
    main(["layers", str(tmp_path)])
    said = capsys.readouterr().out
    assert "block 3" in said
    assert "ViTForImageClassification" in said


def test_default_folders_are_numbered(
    tiny_model: TinyModel, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hftl import run_folder

    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe(["--task.data", "my/reviews.csv", "--model", "google/bert_base"], "text-classification")
    assert str(run_folder.choose(recipe)) == "runs/reviews-bert_base-0"
    Path("runs/reviews-bert_base-0").mkdir(parents=True)
    assert str(run_folder.choose(recipe)) == "runs/reviews-bert_base-1"


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "image-classification", "--help"], ["samples", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom hftl.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: hftl" in done.stdout


def test_of_several_processes_only_the_first_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    main(["--help"])
    assert capsys.readouterr().out == ""
    waited = []
    monkeypatch.setattr("hftl.cli.commands.time.sleep", waited.append)
    with pytest.raises(SystemExit) as ended:
        main(["no-such-command"])
    assert ended.value.code == 2
    assert waited == [1]  # by then the launcher has ended it, if the first process has said the same
    assert "no-such-command" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    main(["--help"])
    assert "usage: hftl" in capsys.readouterr().out
