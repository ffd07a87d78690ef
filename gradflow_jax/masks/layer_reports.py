"""A report of masks as a table: a row a leaf, and what counts as prunable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradflow_jax.masks.tables import (
    Row,
    fraction_removed,
    html_table,
    percent_removed,
    shape_cell,
    text_table,
)

_HEADER = ("leaf", "shape", "kept", "of", "sparsity")


class LayerReport(NamedTuple):
    """One leaf of a report.

    Attributes:
        path: the leaf's name, "conv1/kernel".
        shape: its shape.
        kept: how many of its weights the mask keeps.
        size: how many weights it has.
        prunable: whether it counts as prunable.
        violations: how many of its pruned weights are not 0.0; None without params.
        by_position: how many of its kept weights have the score of a removed one, so
            that their position decided; None without scores.
    """

    path: str
    shape: tuple[int, ...]
    kept: int
    size: int
    prunable: bool
    violations: int | None = None
    by_position: int | None = None

    @property
    def sparsity(self) -> float:
        """The fraction removed, in [0, 1]; 0 of an empty leaf."""
        return fraction_removed(self.kept, self.size)


@dataclass(frozen=True)
class Report:
    """What masks keep: prints as an aligned table, shows as HTML in a notebook.

    Attributes:
        layers: a `LayerReport` for each leaf.
        rule: what counts as prunable, in words.
    """

    layers: tuple[LayerReport, ...]
    rule: str

    @property
    def kept(self) -> int:
        """How many prunable weights are kept."""
        return sum(layer.kept for layer in self.layers if layer.prunable)

    @property
    def size(self) -> int:
        """How many prunable weights there are."""
        return sum(layer.size for layer in self.layers if layer.prunable)

    @property
    def sparsity(self) -> float:
        """The fraction removed of the prunable weights, in [0, 1]."""
        return fraction_removed(self.kept, self.size)

    @property
    def total_kept(self) -> int:
        """How many of all weights are kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def total_size(self) -> int:
        """How many weights there are, biases and normalization included."""
        return sum(layer.size for layer in self.layers)

    @property
    def total_sparsity(self) -> float:
        """The fraction removed of all weights, in [0, 1]."""
        return fraction_removed(self.total_kept, self.total_size)

    @property
    def violations(self) -> int | None:
        """How many pruned weights are not 0.0; None of a report without params."""
        return _total([layer.violations for layer in self.layers])

    @property
    def by_position(self) -> int | None:
        """How many weights equal scores kept by position; None without scores."""
        return _total([layer.by_position for layer in self.layers])

    def __str__(self) -> str:
        return "\n".join([text_table(*self._cells()), *self._notes()])

    def _repr_html_(self) -> str:
        return html_table(*self._cells(), notes=self._notes())

    def _notes(self) -> list[str]:
        """Returns the lines below the table."""
        notes = [f"prunable: {self.rule}"]
        if self.by_position is not None:
            notes.append(f"{self.by_position:,} kept by position among equal scores")
        return notes

    def _cells(self) -> tuple[Row, Sequence[Row], Sequence[Row]]:
        """Returns the header, the rows and the totals as strings."""
        rows = [
            (
                layer.path or "(the array)",
                shape_cell(layer.shape),
                f"{layer.kept:,}",
                f"{layer.size:,}",
                percent_removed(layer.kept, layer.size)
                if layer.kept < layer.size
                else "not pruned",
                *_cell_if_counted(layer.violations),
                *_cell_if_counted(layer.by_position),
            )
            for layer in self.layers
        ]
        more = (
            *_cell_if_counted(self.violations),
            *_cell_if_counted(self.by_position),
        )
        totals = [
            (name, "", f"{kept:,}", f"{size:,}", percent_removed(kept, size), *more)
            for name, kept, size in (
                ("prunable weights", self.kept, self.size),
                ("all weights", self.total_kept, self.total_size),
            )
        ]
        header = list(_HEADER)
        header += ["not 0.0"] * (self.violations is not None)
        header += ["by position"] * (self.by_position is not None)
        return header, rows, totals


def _total(numbers: Sequence[int | None]) -> int | None:
    """Returns the sum of numbers, or None where nothing was counted."""
    counted = [number for number in numbers if number is not None]
    return sum(counted) if counted else None


def _cell_if_counted(number: int | None) -> list[str]:
    """Returns the cell of a number that not every report has."""
    return [] if number is None else [f"{number:,}"]
