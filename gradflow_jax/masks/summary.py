"""The report of a mask: what each layer keeps, with both denominators."""

import html
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from gradflow_jax.trees import (
    Prunable,
    PyTree,
    check_masks,
    default_prunable,
    is_traced,
    named_leaves,
    prunable_flags,
)

_HEADER = ("leaf", "shape", "kept", "of", "sparsity")


class LayerReport(NamedTuple):
    """One leaf of a report.

    Attributes:
        path: the leaf's name, "conv1/kernel".
        shape: its shape.
        kept: how many of its weights the mask keeps.
        size: how many there are.
        prunable: whether it counts as prunable.
    """

    path: str
    shape: tuple[int, ...]
    kept: int
    size: int
    prunable: bool

    @property
    def sparsity(self) -> float:
        """The fraction removed, in [0, 1]; 0 of an empty leaf."""
        return _removed(self.kept, self.size)


@dataclass(frozen=True)
class Report:
    """What masks keep: prints as an aligned table, shows as HTML in a notebook.

    Attributes:
        layers: a `LayerReport` for each leaf.
    """

    layers: tuple[LayerReport, ...]

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
        return _removed(self.kept, self.size)

    @property
    def total_kept(self) -> int:
        """How many of all weights are kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def total_size(self) -> int:
        """How many weights there are, biases and normalisation included."""
        return sum(layer.size for layer in self.layers)

    @property
    def total_sparsity(self) -> float:
        """The fraction removed of all weights, in [0, 1]."""
        return _removed(self.total_kept, self.total_size)

    def __str__(self) -> str:
        rows, totals = self._cells()
        table = [_HEADER, *rows, *totals]
        widths = [max(len(row[i]) for row in table) for i in range(len(_HEADER))]

        def line(row: tuple[str, ...]) -> str:
            name, *rest = (cell for cell in row)
            cells = [name.ljust(widths[0])]
            cells += [x.rjust(w) for x, w in zip(rest, widths[1:], strict=True)]
            return "  ".join(cells)

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [line(_HEADER), rule, *map(line, rows), rule, *map(line, totals)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows, totals = self._cells()

        def line(row: tuple[str, ...], tag: str) -> str:
            cells = "".join(
                f'<{tag} style="text-align:{"right" if i else "left"}">'
                f"{html.escape(cell)}</{tag}>"
                for i, cell in enumerate(row)
            )
            return f"<tr>{cells}</tr>"

        body = "".join(line(row, "td") for row in rows)
        foot = "".join(line(row, "th") for row in totals)
        return (
            f"<table><thead>{line(_HEADER, 'th')}</thead>"
            f"<tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"
        )

    def _cells(self) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """Returns the rows and the totals as strings."""
        rows = [
            (
                layer.path or "(the array)",
                "×".join(map(str, layer.shape)) or "scalar",
                f"{layer.kept:,}",
                f"{layer.size:,}",
                _percent(layer.kept, layer.size) if layer.prunable else "not pruned",
            )
            for layer in self.layers
        ]
        totals = [
            (name, "", f"{kept:,}", f"{size:,}", _percent(kept, size))
            for name, kept, size in (
                ("prunable weights", self.kept, self.size),
                ("all weights", self.total_kept, self.total_size),
            )
        ]
        return rows, totals


def report(masks: PyTree, *, prunable: Prunable = default_prunable) -> Report:
    """Reports what masks keep, layer by layer and in total.

    Args:
        masks: a tree of bool, True keeps.
        prunable: `prunable(path, leaf) -> bool`, as it was given when the masks were
            made. A leaf of which something is removed counts as prunable in any case.

    Returns:
        A `Report`: `print` it, leave it as the last line of a notebook cell, or read
        `.sparsity` (of prunable weights), `.total_sparsity` (of all) and `.layers`.

    Raises:
        TypeError: if a leaf is not bool, or traced by `jax.jit`.
        ValueError: if there is no leaf or none is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> masks = {"kernel": jnp.array([[True, False]]), "bias": jnp.array([True])}
        >>> print(gf.report(masks))
        leaf              shape  kept  of    sparsity
        ---------------------------------------------
        bias                  1     1   1  not pruned
        kernel              1×2     1   2      50.00%
        ---------------------------------------------
        prunable weights            1   2      50.00%
        all weights                 2   3      33.33%
    """
    check_masks(masks)
    named = named_leaves(masks)
    if any(is_traced(mask) for _, mask in named):
        raise TypeError(
            "masks are traced by jax.jit or a like transformation, and a report needs "
            "their values: return the masks and report outside."
        )
    kept = [int(jnp.sum(mask)) for _, mask in named]
    sizes = [math.prod(jnp.shape(mask)) for _, mask in named]
    cut = iter([k < n for k, n in zip(kept, sizes, strict=True)])
    flags = prunable_flags(masks, lambda path, leaf: next(cut) or prunable(path, leaf))
    return Report(
        tuple(
            LayerReport(path, tuple(jnp.shape(mask)), k, n, flag)
            for (path, mask), k, n, flag in zip(named, kept, sizes, flags, strict=True)
        )
    )


def _removed(kept: int, size: int) -> float:
    return 1.0 - kept / size if size else 0.0


def _percent(kept: int, size: int) -> str:
    """Returns the fraction removed; 100 % and 0 % only of all and of nothing."""
    percent = 100 * _removed(kept, size)
    if 0 < kept < size:
        percent = min(max(percent, 0.01), 99.99)
    return f"{percent:.2f}%"
