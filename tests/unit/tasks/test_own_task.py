"""A task of somebody's own, as docs/extending.md has it: from outside the package, in other processes too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hftl import tasks

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"
MODULE = re.search(r"```python\n# my_tasks.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
TASK = "my_tasks:SureImages"


def hftl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as somebody types it in a folder."""
    command = [Path(sys.executable).with_name("hftl"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path], photos: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with the page's module and a run of its task; what the command said."""
    folder = tmp_path_factory.mktemp("project")
    assert MODULE
    (folder / "my_tasks.py").write_text(MODULE[1], encoding="utf-8")
    options = ["--task.data", str(photos), "--model", str(tiny_model("vit")), "--task.sure", "1.5"]
    return folder, hftl(folder, "fit", TASK, *options, "--phases", "linear-probe", "--output-dir", "run")


def test_it_runs_to_its_card(project: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = project
    assert done.returncode == 0, done.stderr
    declared = yaml.safe_load((folder / "run" / "recipe.yaml").read_text())["task"]
    assert (declared["name"], declared["sure"]) == (TASK, 1.5)
    assert "pipeline_tag: image-classification" in (folder / "run" / "README.md").read_text()


def test_its_answers_are_those_of_another_process(
    project: tuple[Path, subprocess.CompletedProcess[str]], photos: Path
) -> None:
    photo = next(photos.rglob("*.png"))
    done = hftl(project[0], "predict", "run", str(photo), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] == "unsure"  # not the parent's answer: no probability is so high
    assert hftl(project[0], "evaluate", "run").returncode == 0


def test_where_its_module_is_not_one_line_says_so(
    project: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = hftl(tmp_path, "evaluate", str(project[0] / "run"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"hftl: {TASK}: its module cannot be imported")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:Task", ["cannot be imported", "no_such_module"]),
        ("hftl.tasks:Nothing", ["hftl.tasks has no class Nothing"]),
        ("pathlib:Path", ["no dataclass"]),
        ("hftl.recipe.phase:Phase", ["no task yet", "load_data"]),
    ],
)
def test_what_is_no_task(name: str, words: list[str], one_line_error: Callable[..., object]) -> None:
    with one_line_error(name, *words):  # type: ignore[attr-defined]
        tasks.find(name)
