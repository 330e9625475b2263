"""What to make of sources: which columns, which rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hftl.data.columns import LABEL, find_column
from hftl.data.kinds import Kind, Role

if TYPE_CHECKING:
    from datasets import Dataset

    from hftl.data.labels import Labels


@dataclass(frozen=True)
class Labelling:
    """Where the labels are."""

    column: str | None = None
    """The user's choice, else found by name and type; where it holds lists, rows have any number of labels."""
    columns: tuple[str, ...] = ()
    """Instead of ``column``, columns of 0 and 1, one a label."""
    separator: str | None = None
    """What stands between several labels in a cell of ``column``."""


class Beside(Protocol):
    """What rows of a modality have beside a label each."""

    def columns(self, dataset: Dataset, label_column: str | None) -> list[str]:
        """The further columns that it needs.

        Raises:
            HftlError: one that was named is not there.
        """

    def added(
        self,
        rows: Mapping[str, Dataset],
        labels: Mapping[str, Labels],
        column: str,
        label_column: str | None,
        known: Collection[str] | None,
        seed: int,
        notes: list[str],
    ) -> dict[str, tuple[Dataset, Labels]]:
        """Rows and labels of each split with it.

        Args:
            rows: by split, train first.
            labels: likewise.
            column: that of the input.
            label_column: that of the labels, where there is one.
            known: the labels of a head that is kept.
            seed: of whatever is drawn.
            notes: what is decided is added.
        """


@dataclass(frozen=True)
class Wanted:
    """Columns and rows."""

    kind: Kind
    named: tuple[str | None, ...] = (None,)
    """The user's choice for each input column, else found by name and type."""
    find: Callable[[Dataset, Collection[str]], dict[str, Role]] | None = None
    """The input columns of a split and their roles, given those that have another role already; None: one column."""
    labelling: Labelling = Labelling()
    max_rows: int | None = None
    """At most so many rows of every split; what is left out is not even opened."""
    seed: int = 0
    """Of samples, and of a validation split that is cut."""
    beside: Beside | None = None

    @property
    def taken(self) -> list[str]:
        """Columns that are known to be labels."""
        return [self.labelling.column] if self.labelling.column else list(self.labelling.columns)

    def inputs(self, rows: Dataset) -> dict[str, Role]:
        """The input columns of a split and their roles.

        Raises:
            HftlError: they are not there, or not clear.
        """
        if self.find is not None:
            return self.find(rows, self.taken)
        return {find_column(rows, self.kind.role, self.named[0], self.taken): self.kind.role}

    def columns(self, rows: Dataset) -> list[str]:
        """All columns that are used, told from a split's first rows."""
        inputs = [*self.inputs(rows)]
        labels = [*(self.labelling.columns or [find_column(rows, LABEL, self.labelling.column, inputs)])]
        label_column = None if self.labelling.columns else labels[0]
        return [*inputs, *labels, *(self.beside.columns(rows, label_column) if self.beside else [])]
