"""Which of several evaluations on the same rows is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hftl.certainty import error_of_difference
from hftl.records import Evaluated

Worth = Callable[[dict[str, float]], tuple[float, float]]
"""What is highest for the best scores: the one that chooses, and for equal ones another."""


ERRORS = 2.0
"""By so many standard errors the best must be better. One was too few: the best of twenty evaluations is one standard
error above the last by luck alone, and training that stops there ends before its learning rate has come down."""


class Choice:
    """The latest evaluation that is not worse than the best by more than ``ERRORS`` standard errors of the difference.

    What comes later has trained for longer, or deeper, or with a smaller learning rate: it is expected to be better,
    and a small validation split that says otherwise by a few rows does not overrule that. Many rows make the error
    small, and then the best is kept.

    Source: the rule of one standard error, see ``certainty``; here for the longer training instead of the simpler
    model, and of two, for the best is chosen among many.
    """

    def __init__(self, worth: Worth, strict: bool = False) -> None:
        """Where ``strict``, what is chosen by is no share of right answers (a loss, say): the best is kept."""
        self._worth, self._strict = worth, strict
        self.top: Evaluated | None = None
        """The best there was."""
        self.kept: Evaluated | None = None
        self.waiting = 0
        """Evaluations since the best."""

    def take(self, new: Evaluated, best: Evaluated | None = None) -> bool:
        """See one more evaluation; whether it is kept now.

        Args:
            new: what would be kept.
            best: the best that it was chosen among already; ``new`` is not worse than it by more than that.
        """
        best = best or new
        if self.top is None or self._worth(best.scores) > self._worth(self.top.scores):
            self.top, self.kept, self.waiting = best, new, 0
            return True
        self.waiting += 1
        behind = self._worth(self.top.scores)[0] - self._worth(new.scores)[0]
        if not self._strict and behind <= ERRORS * error_of_difference(new.parts, self.top.parts):
            self.kept = new
            return True
        return False

    def state(self) -> dict[str, Any]:
        """Where it stands, as plain data."""
        return {"top": self.top and asdict(self.top), "kept": self.kept and asdict(self.kept), "waiting": self.waiting}
