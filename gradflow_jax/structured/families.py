"""Families of units: the slices of leaves that can only be removed together."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis, Reason
from gradflow_jax.structured.coupling.program import Kind
from gradflow_jax.structured.proof.folds import Fold
from gradflow_jax.trees import Patterns, match_paths

# A place is the path of a leaf and the number of one of its axes.
Place = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of a family's units in one axis of one leaf.

    Attributes:
        path: the leaf's.
        axis: of the leaf.
        kinds: what its indices are for: "producing" makes the unit's channel,
            "consuming" reads it, "elementwise" goes with it (biases, normalization,
            depthwise kernels). A tied embedding's axis is both of the first.
        units: arrays of int [size of the axis]: the unit that each index goes with,
            −1 with none. One array, or more where an index goes with several units.
    """

    path: str
    axis: int
    kinds: frozenset[Kind]
    units: Sequence[np.ndarray] = field(repr=False)

    @property
    def place(self) -> Place:
        """The leaf's path and the axis."""
        return self.path, self.axis

    def indices(self, unit: int) -> np.ndarray:
        """Returns the indices of the leaf's axis that go with a unit."""
        belongs = np.zeros(self.units[0].shape, bool)
        for labels in self.units:
            belongs |= labels == unit
        return np.flatnonzero(belongs)


@dataclass(frozen=True, eq=False)
class Family:
    """Units of one kind: filters of a layer, heads, hidden neurons, a residual stream.

    Attributes:
        name: the first place that produces it, `"conv1/kernel[3]"`, with a number
            behind it where several families share the place.
        size: how many units there are.
        slices: all that goes with them.
        zeroed: the places whose zeroing a unit's removal is proved to equal.
        folds: the constants that a cut adds to biases, where it was asked for.
        reads_input: whether a leaf that produces it reads the model's input directly.
        roots: its axes in the program.
    """

    name: str
    size: int
    slices: tuple[Slices, ...]
    zeroed: frozenset[Place]
    folds: tuple[Fold, ...] = field(repr=False)
    reads_input: bool
    roots: tuple[Axis, ...] = field(repr=False)

    @cached_property
    def producers(self) -> tuple[Slices, ...]:
        """The slices that make the units; all of them where none is known to."""
        producing = tuple(s for s in self.slices if "producing" in s.kinds)
        return producing or self.slices

    @cached_property
    def kind(self) -> str:
        """What families of the same structure share: names without numbers, axes."""
        return "; ".join(
            sorted(
                f"{re.sub('[0-9]+', '#', s.path)}[{s.axis}] {'/'.join(sorted(s.kinds))}"
                for s in self.slices
            )
        )

    @property
    def leaves(self) -> tuple[str, ...]:
        """The paths of the leaves that lose slices, each once."""
        return tuple(dict.fromkeys(s.path for s in self.slices))

    def keep(self, flags: np.ndarray) -> dict[Axis, np.ndarray]:
        """Returns which indices of its axes stay, from which units do."""
        result, start = {}, 0
        for root in self.roots:
            result[axes.find(root)] = flags[start : start + root.size]
            start += root.size
        return result


# Patterns of the paths of leaves or of the names of families, or a function that says
# whether a family is meant.
Ignored = Patterns | Callable[[Family], bool]


@dataclass(frozen=True)
class Refused:
    """Places that cannot be cut.

    Attributes:
        places: axes of leaves.
        reason: why, and the equation that caused it.
    """

    places: tuple[Place, ...]
    reason: Reason

    def __str__(self) -> str:
        places = ", ".join(f"{path}[{axis}]" for path, axis in self.places[:4])
        more = f" and {len(self.places) - 4} more" if len(self.places) > 4 else ""
        return f"{places}{more}: {self.reason}"


def labels(dim: Axis, roots: Sequence[Axis]) -> list[np.ndarray]:
    """Returns the units that each index of an axis goes with, over several roots.

    An index goes with several units where an axis is laid over itself; each further
    unit of an index stands in a further array.
    """
    layers: list[np.ndarray] = []
    start = 0
    for root in roots:
        for unit_numbers in axes.places(dim, root):
            shifted = np.where(unit_numbers < 0, -1, unit_numbers + start)
            for layer in layers:
                if not np.any((layer >= 0) & (shifted >= 0)):
                    layer[:] = np.maximum(layer, shifted)
                    break
            else:
                layers.append(shifted)
        start += root.size
    return layers


def shares(
    chosen: Sequence[Slices],
) -> Iterator[tuple[str, int, dict[int, np.ndarray]]]:
    """Yields what to add up so that every unit has each of its weights once.

    A weight where several axes meet, or that an axis gives the unit twice, belongs to
    it once: by inclusion and exclusion.

    Yields:
        The path of a leaf; the sign of its share; for some of its axes the unit that
        each index goes with, −1 with none. The share of a unit is the weights that all
        of these axes give it.
    """
    layers: dict[str, list[tuple[int, np.ndarray]]] = {}
    for slice_ in chosen:
        labels_by_axis = layers.setdefault(slice_.path, [])
        labels_by_axis += [(slice_.axis, labels) for labels in slice_.units]
    for path, labels_by_axis in layers.items():
        for count in range(1, len(labels_by_axis) + 1):
            for subset in itertools.combinations(labels_by_axis, count):
                agreed: dict[int, np.ndarray] = {}
                for axis, unit_of in subset:
                    agreed_so_far = agreed.get(axis, unit_of)
                    agreed[axis] = np.where(agreed_so_far == unit_of, unit_of, -1)
                yield path, 1 if count % 2 else -1, agreed


def ignored_by(
    ignore: Ignored, families: Sequence[Family], paths: Iterable[str]
) -> Callable[[Family], bool]:
    """Returns which families are ignored.

    Args:
        ignore: patterns of the paths of leaves that produce families, or of the names
            of families; or a function that says so of a family.
        families: of the model.
        paths: of its leaves.

    Raises:
        TypeError: if a pattern is no string; where the function is called, if it
            returns neither True nor False.
        ValueError: if a pattern matches neither a leaf nor a family.
    """
    if callable(ignore):
        return functools.partial(_is_ignored, ignore)
    names = [*paths, *(family.name for family in families)]
    matches = match_paths(ignore, names, of="neither a leaf nor a family")
    ignored = {name for name, match in zip(names, matches, strict=True) if match}
    return lambda family: (
        not ignored.isdisjoint(
            [family.name, *(slices.path for slices in family.producers)]
        )
    )


def _is_ignored(ignore: Callable[[Family], bool], family: Family) -> bool:
    answer = ignore(family)
    try:
        return bool(answer)
    except (TypeError, ValueError):
        # Of several numbers Python cannot tell.
        raise TypeError(
            f"ignore of the family {family.name!r} returned a "
            f"{type(answer).__name__}: return True or False."
        ) from None
