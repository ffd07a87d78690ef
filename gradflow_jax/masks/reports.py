"""Reports what masks keep, layer by layer, of prunable and of all weights."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.masks.tables import (
    fraction_removed,
    html_table,
    percent_removed,
    shape_cell,
    text_table,
)
from gradflow_jax.trees import (
    Masks,
    Patterns,
    Prunable,
    check_masks,
    default_prunable,
    is_traced,
    match_paths,
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
        size: how many weights it has.
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
        return fraction_removed(self.kept, self.size)


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

    def __str__(self) -> str:
        return text_table(_HEADER, *self._cells())

    def _repr_html_(self) -> str:
        return html_table(_HEADER, *self._cells())

    def _cells(self) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """Returns the rows and the totals as strings."""
        rows = [
            (
                layer.path or "(the array)",
                shape_cell(layer.shape),
                f"{layer.kept:,}",
                f"{layer.size:,}",
                percent_removed(layer.kept, layer.size)
                if layer.prunable
                else "not pruned",
            )
            for layer in self.layers
        ]
        totals = [
            (name, "", f"{kept:,}", f"{size:,}", percent_removed(kept, size))
            for name, kept, size in (
                ("prunable weights", self.kept, self.size),
                ("all weights", self.total_kept, self.total_size),
            )
        ]
        return rows, totals


def report(
    masks: Masks, *, prunable: Prunable = default_prunable, ignore: Patterns = ()
) -> Report:
    """Reports what masks keep, layer by layer and in total.

    Args:
        masks: a tree of bool, True keeps.
        prunable: `prunable(path, leaf) -> bool`, as it was given when the masks were
            made. A leaf of which something is removed counts as prunable in any case.
        ignore: a path or shell pattern, or several, as when the masks were made.

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
    paths_and_masks = named_leaves(masks)
    if any(is_traced(mask) for _, mask in paths_and_masks):
        raise TypeError(
            "masks are traced by jax.jit or a like transformation, and a report needs "
            "their values: return the masks and report outside."
        )
    shapes = [tuple(jnp.shape(mask)) for _, mask in paths_and_masks]
    kept = [int(jnp.sum(mask)) for _, mask in paths_and_masks]
    sizes = [math.prod(shape) for shape in shapes]
    paths = [path for path, _ in paths_and_masks]
    # Two leaves may have one name, so that each is told by its place.
    is_pruned = iter([k < n for k, n in zip(kept, sizes, strict=True)])
    is_ignored = iter(match_paths(ignore, paths))

    def counts(path: str, leaf: jax.Array) -> bool:
        whole = next(is_ignored) or not prunable(path, leaf)
        return next(is_pruned) or not whole

    flags = prunable_flags(masks, counts)
    columns = zip(paths, shapes, kept, sizes, flags, strict=True)
    return Report(tuple(LayerReport(*row) for row in columns))
