"""Options and YAML into a recipe, and into what a command takes."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from hftl import tasks
from hftl.errors import HftlError
from hftl.recipe import strategies
from hftl.recipe.recipe import Recipe, read_yaml, task_name

Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Inputs = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT …")]
Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME …")]
Store = Annotated[Path | None, tyro.conf.arg(name="dir")]
All = Annotated[bool, tyro.conf.arg(name="all")]
Json = Annotated[bool, tyro.conf.arg(name="json")]


HELP = """\
usage: hftl COMMAND …

Adapt a pretrained model to your labelled data, in stages, and get an ordinary Hugging Face folder.

  hftl fit TASK --task.data DATA --model MODEL [--phases STRATEGY] [options]
  hftl fit FILE.yaml [options]       the same, declared in a file; options go before what it says
  hftl plan TASK|FILE.yaml …         what fit would do: layer groups, what trains, steps, what is written
  hftl evaluate RUN [--split test]   scores of a run's model on its own data, or on --data DATA
  hftl predict RUN INPUT …           answers for files, folders, tables or texts
  hftl detect RUN RECORDING …        what is heard when in long recordings: windows, tables, pictures
  hftl layers MODEL                  the layer groups of a model
  hftl store [ls|rm]                 stored features of frozen layers: list them, remove some or all
  hftl samples [FOLDER]              small real models and data to try all this on, made from PyPI packages

tasks:       {tasks}
strategies:  {strategies}

hftl COMMAND --help shows the options of a command, hftl fit TASK --help those of a task.
"""


def show_help() -> None:
    """Print what there is."""
    print(HELP.format(tasks=", ".join(tasks.names()), strategies=", ".join(strategies.NAMED)), end="")


def parse_recipe(arguments: Sequence[str], task: str | None = None, prog: str = "hftl fit") -> Recipe[Any]:
    """The recipe that options declare: YAML (``--config``) < ``--phases NAME`` < single options.

    Args:
        arguments: what was typed after the command.
        task: the task's name where it is given; a YAML file must then name the same.
        prog: what the help calls the command.

    Raises:
        HftlError: an option that does not exist or does not fit, named; the YAML file's own problems.
    """
    rest = list(arguments)
    config, phases, store = take(rest, "--config"), take(rest, "--phases"), take(rest, "--store")
    if config is None and task is None:
        raise HftlError(f"{prog}: name a task ({', '.join(tasks.names())}) or a YAML file")
    default = _empty_recipe(tasks.find(task)) if config is None and task else read_yaml(str(config), tasks.find)
    if task is not None and task_name(default.task) != task:
        raise HftlError(f"{config}: it is a recipe for {task_name(default.task)}, not for {task}")
    if phases is not None:
        default = dataclasses.replace(default, phases=strategies.by_name(phases))
    if store is not None:
        if store not in ("on", "off"):
            raise HftlError(f"--store {store}: say on or off; --store.dir names its folder")
        default = dataclasses.replace(default, store=dataclasses.replace(default.store, use=store == "on"))
    if "--resume" in rest:
        raise HftlError("--resume: resuming is not built yet; name another --output-dir")
    recipe_type: Any = Recipe
    parsed: Recipe[Any] = parse(recipe_type[type(default.task)], rest, f"{prog} {task or config}", default)
    return parsed


def recipe_of(arguments: list[str], prog: str) -> Recipe[Any]:
    """The recipe of ``fit`` or ``plan``: a task or a YAML file, then options."""
    if not arguments or arguments[0] in ("-h", "--help"):
        show_help()
        sys.exit(0)
    first, *rest = arguments
    if first.startswith("-"):
        return parse_recipe(arguments, None, prog)
    if first.endswith((".yaml", ".yml")):
        return parse_recipe(["--config", first, *rest], None, prog)
    return parse_recipe(rest, first, prog)


def _empty_recipe(task_class: type[Any]) -> Recipe[Any]:
    return Recipe(task=task_class(data=tyro.MISSING), model=tyro.MISSING)


def take(arguments: list[str], option: str) -> str | None:
    """Remove ``option VALUE`` (or ``option=VALUE``) from the arguments; the value."""
    for index, argument in enumerate(arguments):
        if argument == option:
            if index + 1 == len(arguments):
                raise HftlError(f"{option}: it wants a value")
            del arguments[index]
            return arguments.pop(index)
        if argument.startswith(f"{option}="):
            return arguments.pop(index).partition("=")[2]
    return None


def call(command: Callable[..., None], name: str, arguments: list[str]) -> None:
    """Run a command with what was typed after its name."""

    @functools.wraps(command)
    def chosen(*values: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *values, **options)

    parse(chosen, arguments, f"hftl {name}")()  # run it only now: while tyro parses, standard error is held back


def parse(kind: Any, arguments: list[str], prog: str, default: Any = None) -> Any:
    """``tyro.cli``, its boxed error messages as one line.

    Raises:
        HftlError: an option that does not exist, does not fit or is missing.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=prog,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
    raise HftlError(_unboxed(said.getvalue(), arguments, prog))


def _unboxed(box: str, arguments: Sequence[str], prog: str) -> str:
    """The text of tyro's error box in one line: what is wrong, and what was probably meant."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)  # without colours
    title, *lines = [line.strip(" │╭╮╰╯") for line in plain.splitlines() if line.strip()] or [""]
    while lines and not lines[0].strip("─-"):  # where the terminal has no box characters, a rule follows the title
        lines.pop(0)
    end = next((index for index, line in enumerate(lines) if not line.strip("─-")), len(lines))
    options = [line.split()[0].rstrip(",") for line in lines if line.startswith("--")]
    problem = " ".join(" ".join(lines[:end]).split()) or title
    if problem.startswith("Missing from"):
        typed = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
        options = [option for option in options if option not in typed]
        meant = [(near[0], option) for option in options if (near := difflib.get_close_matches(option, typed, 1, 0.75))]
        problem = f"missing: {', '.join(options) or problem.partition(':')[2].strip()}"
        if meant:
            problem += f"; there is no option {meant[0][0]}, did you mean {meant[0][1]}?"
    elif problem.startswith("Unrecognized") and options:
        nearest = difflib.get_close_matches(problem.split()[2].rstrip(","), options, 1, 0.0)[0]
        problem = f"{problem[0].lower()}{problem[1:]}; did you mean {nearest}?"
    return f"{problem}; see {prog} --help"
