"""``hftl predict``: the answers of a run's model as a table, or as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hftl import tasks
from hftl.cli.options import Inputs, Json, Run, call, take
from hftl.errors import HftlError
from hftl.recipe.recipe import read_yaml
from hftl.tasks.base import NOTHING


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

    call(chosen, "predict", arguments)


def _fields(arguments: list[str]) -> dict[str, str]:
    """Remove from the arguments those that are parts of an input, as the task of the run in them names these."""
    declared = (os.path.join(os.path.expanduser(argument), "recipe.yaml") for argument in arguments)
    recipe = next((Path(path) for path in declared if os.path.isfile(path)), None)
    if recipe is None:
        return {}
    found = {name: take(arguments, f"--{name}") for name in read_yaml(recipe, tasks.find).task.fields}
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
