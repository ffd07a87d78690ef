"""What was found in a model: units, what they save, and what was refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gradflow_jax.masks.selection.placement import place_like
from gradflow_jax.masks.tables import text_table
from gradflow_jax.programs.models import Model
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.tracing import Traced
from gradflow_jax.structured.families import Family, Refused
from gradflow_jax.structured.plans import (
    axis_flags,
    check_keep,
    known_names,
    removal_masks,
)
from gradflow_jax.structured.running.cut_program import Plan
from gradflow_jax.trees import ArrayTree, Masks, describe, is_traced

Keep = Mapping[str, chex.Array]
"""Which units of each family stay, by its name: bool [units], True keeps."""


@dataclass(frozen=True, eq=False)
class Units:
    """The structural units of a model: what can be removed, and what cannot and why.

    Attributes:
        families: units that can be removed, by kind.
        refused: places that cannot be cut, with the reason.
        leaves: the shape and dtype of each leaf of the variables, by path.
        inputs: the shapes and dtypes that the model was traced with.
        model: the model, as it was given and as a function of its variables.

    `print(units)` shows a table; `units[name]` is a family; `units.explain(path)`
    says in words what can be done with a leaf.
    """

    families: tuple[Family, ...]
    refused: tuple[Refused, ...]
    leaves: dict[str, jax.ShapeDtypeStruct] = field(repr=False)
    inputs: tuple[Any, ...] = field(repr=False)
    model: Model = field(repr=False)
    _program: Traced = field(repr=False)

    def __copy__(self) -> "Units":
        """Returns the units themselves: nothing in them changes."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Units":
        """Returns the units themselves: nothing in them changes."""
        return self

    def __reduce__(self) -> Any:
        """Refuses to be pickled.

        Raises:
            TypeError: saying what to keep instead.
        """
        raise TypeError(
            "Units hold the traced program of a model and cannot be pickled. Keep the "
            "keep sets, dicts of arrays, or save a cut by gf.save_cut; gf.find_units "
            "finds the same families, of the same names, in the same model."
        )

    def __getitem__(self, name: str) -> Family:
        """Returns a family by its name."""
        for family in self.families:
            if family.name == name:
                return family
        raise KeyError(f"there is no family {name!r}; {known_names(self.families)}")

    def __iter__(self) -> Iterator[Family]:
        return iter(self.families)

    def __len__(self) -> int:
        """Returns how many families there are."""
        return len(self.families)

    def check_keep(self, keep: Keep) -> dict[str, np.ndarray]:
        """Returns flags for every family, where a keep set names some.

        Raises:
            TypeError: if they are no mapping, or traced by `jax.jit`.
            ValueError: if a family is unknown, its flags are not one bool for each
                unit, or none of its units would stay.
        """
        return check_keep(keep, self.families)

    def shapes(self, keep: Keep) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each leaf after a cut, by path."""
        kept = axis_flags(self.families, self.check_keep(keep))
        return {
            path: tuple(axes.kept_size(axis, kept) for axis in dims)
            for path, dims in self._program.dims.items()
        }

    def widths(self, keep: Keep) -> dict[str, int]:
        """Returns how many units of each family stay."""
        return {name: int(flags.sum()) for name, flags in self.check_keep(keep).items()}

    def parameters(self, keep: Keep | None = None) -> int:
        """Counts the parameters, of the model or of what a keep set leaves."""
        shapes = self.shapes({} if keep is None else keep)
        trained = [path for path in shapes if self.model.is_parameter(path)]
        return sum(int(np.prod(shapes[path], dtype=np.int64)) for path in trained)

    def flops(self, keep: Keep | None = None) -> int:
        """Counts multiply-accumulates of contractions and convolutions.

        For the example inputs, at the model's widths or those a keep set leaves. They
        are counted from the program: padding counts as computed, a scan's body as
        often as it runs, a `while` loop's once, a `cond` with all of its branches.
        """
        kept = axis_flags(self.families, self.check_keep({} if keep is None else keep))
        total = 0
        for product in self._program.coupling.products:
            number = product.number
            for axis in product.axes:
                number *= axes.kept_size(axis, kept)
            total += number
        return total

    def masks(self, keep: Keep, like: ArrayTree) -> Masks:
        """Returns the masks that a cut is equal to: bool, True keeps.

        A model whose weights are zeroed by them computes what the cut model does.

        Args:
            keep: which units stay, by family.
            like: the variables, or the parameters among them.

        Returns:
            A tree of bool like `like`, laid out as it is over a mesh: False in the
            slices of removed units, at the places that the proof asks for.
        """
        flags = self.check_keep(keep)
        masks = removal_masks(self.families, flags, self.model.variables, like)
        return jax.tree.map(_put_beside, masks, like)

    def explain(self, path: str) -> str:
        """Says in words whether and how each axis of a leaf can be cut.

        Raises:
            KeyError: if the model has no such leaf.
        """
        if path not in self.leaves:
            name = path.split("/")[-1]
            near = [leaf for leaf in self.leaves if leaf.endswith(name)]
            hint = f"; there are {', '.join(near[:5])}" if near else ""
            raise KeyError(f"the model has no leaf {path!r}{hint}")
        lines = [f"{path} {describe(self.leaves[path])}"]
        for axis, size in enumerate(self.leaves[path].shape):
            sentences = [
                f"{family.size} units of {family.name}, which are removed with "
                + _list_slices([s for s in family.slices if s.place != (path, axis)])
                + ("; their constant goes into a bias" if family.folds else "")
                for family in self.families
                if any(s.place == (path, axis) for s in family.slices)
            ]
            # Some axes of a product or a sum may be cut and others not.
            stays = "its other part stays" if sentences else "cannot be cut"
            sentences += [
                f"{stays}: {refused.reason}"
                for refused in self.refused
                if (path, axis) in refused.places
            ]
            lines.append(f"  axis {axis} of {size}: " + "\n    ".join(sentences))
        return "\n".join(lines)

    def __str__(self) -> str:
        if not self.families:
            why = "\n".join(f"  {refused}" for refused in self.refused[:5])
            return f"no units can be removed:\n{why}"
        rows = []
        for family in self.families:
            makers = {s.path for s in family.producers}
            others = len(set(family.leaves) - makers)
            rows.append(
                (
                    family.name,
                    str(family.size),
                    f"{len(makers)} lea{'f' if len(makers) == 1 else 'ves'}",
                    f"{others} other{'' if others == 1 else 's'}",
                )
            )
        header = ("family", "units", "made by", "goes with")
        table = text_table(header, rows, words=(0, 2, 3))
        units = sum(family.size for family in self.families)
        kinds = f"{len(self)} famil{'y' if len(self) == 1 else 'ies'}"
        return f"{table}\n{units} units in {kinds}"


def check_units(units: Any, *, what: str = "units", optional: bool = False) -> None:
    """Checks that units are what `find_units` returned.

    Args:
        units: what was handed over.
        what: what an error calls them.
        optional: whether they may be None.

    Raises:
        TypeError: if they are anything else.
    """
    if isinstance(units, Units) or (optional and units is None):
        return
    where = "" if optional else ": they stand after the variables, or the scores"
    raise TypeError(
        f"{what} is a {type(units).__name__}, not what gf.find_units returned for this "
        f"model{', or None' if optional else ''}{where}."
    )


def refuse_training_mode(units: Units) -> None:
    """Raises ValueError at units of a model that does not read its own statistics.

    In training mode a batch norm reads its scale and none of its running statistics,
    which would stay as they are beside a scale that is cut.
    """
    read = program_of(units).read()
    layers = {_layer(path) for family in units for path in family.leaves}
    for path in units.leaves:
        is_statistic = path not in read and not units.model.is_parameter(path)
        if is_statistic and _layer(path) in layers:
            raise ValueError(
                "the units were found in training mode, in which the model does not "
                f"read {path!r}: it cannot be told how to cut it. Call model.eval() "
                "first, and find the units again."
            )


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def program_of(units: Units) -> Traced:
    """Returns the program that the units of a model were found in."""
    return units._program


def _put_beside(mask: np.ndarray, leaf: Any) -> jax.Array:
    """Puts a mask where a leaf lies."""
    on_mesh = isinstance(leaf, jax.Array) and not is_traced(leaf)
    if on_mesh and isinstance(leaf.sharding, NamedSharding):
        return jax.device_put(mask, leaf.sharding)
    return place_like(jnp.asarray(mask), leaf)


def plan_cut(units: Units, keep: Keep) -> Plan:
    """Returns what a keep set does to the program's axes."""
    return Plan(axis_flags(units.families, units.check_keep(keep)))


def _list_slices(slices: list) -> str:
    names = [f"{s.path}[{s.axis}]" for s in slices]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing else"
