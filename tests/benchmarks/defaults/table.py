"""The table of ``bench``: medians and ranges of the test scores, seconds, and what was to be shown."""

from __future__ import annotations

import statistics
from typing import Any

ORDER = ("hftl", "hftl before", "Trainer", "logistic regression", "hftl, linear-probe")
HEADS = ("hftl", "hftl at ba7eeb7", "Trainer, full", "logistic regression", "hftl, linear-probe")


class Found:
    """The runs of one JSON by cell and contender."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for run in document["runs"].values():
            self.runs.setdefault((run["cell"], run["contender"]), []).append(run)
        self.cells = [*dict.fromkeys(cell for cell, _ in self.runs)]

    def median(self, cell: str, contender: str, value: str = "score") -> float | None:
        """The median over seeds; None where it was not run."""
        found = self.runs.get((cell, contender))
        return statistics.median(run[value] for run in found) if found else None

    def cell(self, cell: str, contender: str) -> str:
        """Median, range and seconds as the table shows them."""
        found = self.runs.get((cell, contender))
        if not found:
            return "-"
        scores, seconds = [run["score"] for run in found], statistics.median(run["seconds"] for run in found)
        return f"{statistics.median(scores):.3f} ({min(scores):.3f}-{max(scores):.3f}), {seconds:.0f} s"

    def best_peer(self, cell: str) -> float | None:
        """The higher of the medians of Trainer and the logistic regression."""
        found = [self.median(cell, name) for name in ("Trainer", "logistic regression")]
        return max((score for score in found if score is not None), default=None)

    def reached(self, cell: str) -> float | None:
        """The part of Trainer's time in which hftl had Trainer's final score, on the rows of seed 0; None: never."""
        ours, theirs = (
            next((run for run in self.runs.get((cell, name), []) if run["seed"] == 0), None)
            for name in ("hftl", "Trainer")
        )
        if ours is None or theirs is None:
            return None
        times = [seconds for seconds, score in ours["curve"] if score >= theirs["score"]]
        return times[0] / theirs["seconds"] if times else None


def markdown(document: dict[str, Any]) -> str:
    """All of it."""
    found, machine = Found(document), document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['cpu']}, one core a run; {versions}; fp32. Medians over the seeds (range), seconds of training.",
        "",
        f"| | {' | '.join(HEADS)} | Trainer's score after |",
        "|---|" + "---|" * (len(HEADS) + 1),
    ]
    for cell in found.cells:
        part = found.reached(cell)
        time = "-" if part is None else f"{100 * part:.0f} % of its time"
        lines.append(f"| {cell} | {' | '.join(found.cell(cell, name) for name in ORDER)} | {time} |")
    return "\n".join([*lines, "", *summary(found)]) + "\n"


def summary(found: Found) -> list[str]:
    """In points, over the cells where both were run."""

    def differences(one: str, others: tuple[str, ...]) -> list[float]:
        each = []
        for cell in found.cells:
            ours = found.median(cell, one)
            theirs = [score for name in others if (score := found.median(cell, name)) is not None]
            if ours is not None and theirs:
                each.append(100 * (ours - max(theirs)))
        return each

    lines = []
    for one, others, told in (
        ("hftl", ("Trainer", "logistic regression"), "hftl above the better of Trainer and logistic regression"),
        ("hftl", ("hftl before",), "hftl above hftl at ba7eeb7"),
        ("hftl, linear-probe", ("logistic regression",), "linear-probe above logistic regression"),
    ):
        if each := differences(one, others):
            mean, low, high = statistics.mean(each), min(each), max(each)
            lines.append(f"- {told}: {mean:+.1f} points on average ({low:+.1f} to {high:+.1f}, {len(each)} cells)")
    return lines
