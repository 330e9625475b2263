"""What `make demo` runs: two real pretrained models adapted to real data, head first, then everything.

    hftl samples && python recipes/demo.py

It reads models and data from samples/, writes two run folders, and sets side by side what each stage is worth on the
validation split: always the commonest label, a new head on the frozen model, the whole model unfrozen.
"""

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hftl import Trainer
from hftl.cli import errors_in_one_line, parse_recipe
from hftl.wording import score_text, seconds_text

CONFIGS = Path(__file__).parent / "configs"


def main() -> None:
    console = Console()
    table = Table(title="accuracy", box=None, padding=(0, 3, 0, 0), title_style="bold cyan", title_justify="left")
    for column in ("data", "majority", "frozen", "unfrozen", "on test", "time"):
        table.add_column(column, justify="left" if column == "data" else "right", no_wrap=True)
    folders = []
    with errors_in_one_line():
        for config in ("demo-movie-reviews", "demo-digits"):
            trainer = Trainer(parse_recipe(["--config", str(CONFIGS / f"{config}.yaml")]))
            ended = trainer.fit()
            frozen, unfrozen = (phase["scores"]["accuracy"] for phase in trainer.ended)
            scores = (trainer.ready.majority()["accuracy"], frozen, unfrozen, ended.scores["test"]["accuracy"])
            data = config.removeprefix("demo-").replace("-", " ")
            table.add_row(data, *map(score_text, scores), seconds_text(ended.seconds))
            folders.append(ended.folder)
    console.print("", table, "", sep="\n")
    console.print("The runs, each with model/, curves.png and a model card:", *folders, sep="\n  ")
    command = f"{os.path.relpath(sys.executable)} -m hftl"  # the virtual environment need not be active
    console.print(f'Try one:  {command} predict {folders[0]} "A masterpiece, beautifully acted."', soft_wrap=True)


if __name__ == "__main__":
    main()
