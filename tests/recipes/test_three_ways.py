"""Recipe scripts, the command line and the library: three ways, one run. Run as a user does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hftl import Phase, Recipe, Trainer, tasks
from hftl.cli import parse_recipe

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))

TinyModel = Callable[[str], Path]


def typed(*arguments: str) -> str:
    """Run a command in the project's folder; what it printed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("task", ["image-classification", "question-answering", "text-classification"])
def test_script_command_and_library_give_the_same_model(
    task: str, tiny_model: TinyModel, photos: Path, reviews: Path, squad: Path, tmp_path: Path
) -> None:
    data = {"image-classification": photos, "question-answering": squad, "text-classification": reviews}[task]
    model = tiny_model("vit" if task.startswith("image") else "bert")
    config = tmp_path / "recipe.yaml"
    phases = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}, {"unfreeze": 2, "epochs": 1, "lr": 1e-3}]
    declared = {"task": {"name": task, "data": str(data)}, "model": str(model), "phases": phases, "batch_size": 16}
    config.write_text(yaml.safe_dump({**declared, "precision": "fp32"}))
    changed = ["--phases.1.lr", "3e-5", "--output-dir"]

    typed("-m", "hftl", "fit", str(config), *changed, str(tmp_path / "command"))
    script = f"recipes/{task.replace('-', '_')}.py"
    typed(script, "--config", str(config), *changed, str(tmp_path / "script"))
    recipe = Recipe(
        task=tasks.find(task)(str(data)),
        model=str(model),
        phases=(Phase("head", 1, 1e-2), Phase(2, 1, 3e-5)),
        batch_size=16,
        precision="fp32",
        output_dir=str(tmp_path / "library"),
    )
    Trainer(recipe).fit(display=False)

    models = [load_file(tmp_path / way / "model" / "model.safetensors") for way in ("command", "script", "library")]
    for other in models[1:]:
        assert set(other) == set(models[0])
        assert all(torch.equal(other[name], models[0][name]) for name in other)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_a_recipe_and_opens_with_its_command(config: Path) -> None:
    recipe = parse_recipe(["--config", str(config)])
    assert recipe.phases
    lines = config.read_text().splitlines()
    commands = [line for line in lines if line.startswith("#   ")]
    assert any(f"hftl fit recipes/configs/{config.name}" in line for line in commands)


@pytest.mark.parametrize("script", ["image_classification", "question_answering", "text_classification"])
def test_every_script_opens_with_its_command_and_has_help(script: str) -> None:
    text = (ROOT / "recipes" / f"{script}.py").read_text()
    assert f"python recipes/{script}.py --task.data" in text.partition('"""')[2].partition('"""')[0]
    assert len(text.splitlines()) <= 60
    assert "--task.data" in typed(f"recipes/{script}.py", "--help")


def test_a_script_says_in_one_line_what_is_wrong() -> None:
    command = [sys.executable, "recipes/image_classification.py", "--task.data", "nowhere/", "--model", "nothing/"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("hftl: ")
    assert done.stderr.count("\n") == 1
