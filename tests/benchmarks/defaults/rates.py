"""What a range test says of the learning rate: the loss of blocks while their rate rises from step to step.

    PYTHONPATH=.:tests python -m benchmarks.defaults.rates "digits, 10 a class" "birds, 15 a class"

From the solved head, as blocks begin by default; the loss is a mean over seven steps. Source: Smith 2017, "Cyclical
Learning Rates for Training Neural Networks", 3.3.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from benchmarks.defaults.cells import CELLS, Cell, model_of, provide
from benchmarks.defaults.contenders import task_of

from hftl import HftlError, Recipe, Trainer
from hftl.recipe.phase import Phase
from hftl.recipe.recipe import Store
from hftl.recipe.schedule import factor
from hftl.recipe.strategies import lp_ft
from hftl.records import StepTaken

LOWEST, HIGHEST, STEPS, MEAN = 1e-6, 0.1, 60, 7


def rising(phase: Phase, step: int, steps: int) -> float:
    """The factor on ``HIGHEST`` while blocks train."""
    return factor(phase, step, steps) if phase.head_only else float((LOWEST / HIGHEST) ** max(0, 1 - step / STEPS))


def measure(cell: Cell, shared: Path) -> tuple[list[float], list[float]]:
    """Learning rate and loss of each step."""
    work = Path("build/defaults")
    data = provide(cell, 0, shared, Path("samples"), work).absolute()
    job = {"kind": cell.kind, "data": str(data), "size": cell.size}
    head, blocks = lp_ft()
    with tempfile.TemporaryDirectory(dir=work) as name, mock.patch("hftl.trainer.factor", rising):
        folder = Path(name).absolute()
        recipe = Recipe(
            task=task_of(job),
            model=str(model_of(cell.kind, shared).absolute()),
            phases=(head, replace(blocks, lr=HIGHEST, epochs=STEPS)),
            output_dir=str(folder / "run"),
            seed=0,
            precision="fp32",
            refit=False,
            log_every=1,
            store=Store(dir=str(folder / "store")),
        )
        rates, losses = list[float](), list[float]()
        with suppress(HftlError):  # the loss is no number any more
            for record in Trainer(recipe).run():
                if isinstance(record, StepTaken) and record.phase == 1 and record.loss is not None:
                    rates.append(record.lr)
                    losses.append(record.loss)
                if len(losses) == STEPS:
                    break
    return rates, losses


def main() -> None:
    """Print, for each cell named, where the loss is lowest and where it is back at its start."""
    shared = Path(os.environ.get("HFTL_SHARED", Path(__file__).parents[4] / "shared"))
    for cell in (cell for cell in CELLS if cell.name in sys.argv[1:]):
        rates, losses = measure(cell, shared)
        smooth = np.convolve(losses, np.ones(MEAN) / MEAN, "valid")
        at = np.array(rates[MEAN // 2 :][: len(smooth)])
        below = at[smooth < smooth[0]]
        back = f"{below[-1]:.1e}" if len(below) else "-"
        lowest = f"{smooth.min():.2f} at {at[smooth.argmin()]:.1e}"
        print(f"{cell.name}: begins at {smooth[0]:.2f}, lowest {lowest}, below its beginning up to {back}")


if __name__ == "__main__":
    main()
