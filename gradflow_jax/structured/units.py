"""What was found in a model: units, what they save, and what was refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.models import Model
from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.tracing import Traced
from gradflow_jax.structured.families import Family, Refused
from gradflow_jax.structured.proof.folds import Fold
from gradflow_jax.structured.running.cut_program import Cut
from gradflow_jax.trees import PyTree, describe, named_leaves

Keep = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Units:
    """The structural units of a model: what can be removed, and what cannot and why.

    Attributes:
        families: units that can be removed, by kind.
        refused: places that cannot be cut, with the reason.
        leaves: the shape and dtype of each leaf of the variables, by path.
        inputs: the shapes and dtypes that the model was traced with.

    `print(units)` shows a table; `units[name]` is a family; `units.explain(path)`
    says in words what can be done with a leaf.
    """

    families: tuple[Family, ...]
    refused: tuple[Refused, ...]
    leaves: dict[str, jax.ShapeDtypeStruct] = field(repr=False)
    inputs: tuple[Any, ...] = field(repr=False)
    model: Model = field(repr=False)
    traced: Traced = field(repr=False)

    def __getitem__(self, name: str) -> Family:
        """Returns a family by its name."""
        for family in self.families:
            if family.name == name:
                return family
        raise KeyError(f"there is no family {name!r}; {self._known()}")

    def __iter__(self) -> Iterator[Family]:
        return iter(self.families)

    def __len__(self) -> int:
        """Returns how many families there are."""
        return len(self.families)

    def _known(self) -> str:
        names = [family.name for family in self.families]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"there are {', '.join(names[:5])}{more}" if names else "there are none"

    def checked(self, keep: Keep) -> dict[str, np.ndarray]:
        """Returns flags for every family, where a keep set names some.

        Raises:
            ValueError: if a family is unknown, its flags are not one bool for each
                unit, or none of its units would stay.
        """
        known = {family.name: family for family in self.families}
        found = {name: np.ones(family.size, bool) for name, family in known.items()}
        for name, flags in keep.items():
            if name not in known:
                raise ValueError(f"keep names the family {name!r}; {self._known()}.")
            flags, size = np.asarray(flags), known[name].size
            if flags.dtype != bool:
                raise ValueError(
                    f"keep of {name!r} is {describe(flags)}; it is one bool for each "
                    f"of its {size} units, True keeps. Of indices i make it by "
                    f"np.isin(np.arange({size}), i)."
                )
            if flags.shape != (size,):
                raise ValueError(
                    f"keep of {name!r} has shape {flags.shape}, but the family has "
                    f"{size} units."
                )
            if not flags.any():
                raise ValueError(
                    f"keep of {name!r} keeps none of its {size} units: a layer of "
                    "width 0 lets nothing through. Keep at least one."
                )
            found[name] = flags
        return found

    def axes_kept(self, keep: Keep) -> dict[Axis, np.ndarray]:
        """Returns the flags of the program's axes that a keep set stands for."""
        result: dict[Axis, np.ndarray] = {}
        for name, flags in self.checked(keep).items():
            if not flags.all():
                result.update(self[name].keep(flags))
        return result

    def cut(self, keep: Keep) -> Cut:
        """Returns what a keep set does to the program's axes."""
        return Cut(self.axes_kept(keep))

    def shapes(self, keep: Keep) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each leaf after a cut, by path."""
        kept = self.axes_kept(keep)
        return {
            path: tuple(axes.kept_size(axis, kept) for axis in dims)
            for path, dims in self.traced.dims.items()
        }

    def widths(self, keep: Keep) -> dict[str, int]:
        """Returns how many units of each family stay."""
        return {name: int(flags.sum()) for name, flags in self.checked(keep).items()}

    def parameters(self, keep: Keep | None = None) -> int:
        """Counts the parameters, of the model or of what a keep set leaves."""
        shapes = self.shapes(keep or {})
        trained = [path for path in shapes if self.model.is_parameter(path)]
        return sum(int(np.prod(shapes[path], dtype=np.int64)) for path in trained)

    def flops(self, keep: Keep | None = None) -> int:
        """Counts multiply-accumulates of contractions and convolutions.

        For the example inputs, at the model's widths or those a keep set leaves. They
        are counted from the program: padding counts as computed, a scan's body as
        often as it runs, a `while` loop's once, a `cond` with all of its branches.
        """
        kept = self.axes_kept(keep or {})
        total = 0
        for product in self.traced.coupling.products:
            number = product.number
            for axis in product.axes:
                number *= axes.kept_size(axis, kept)
            total += number
        return total

    def folds(self, keep: Keep) -> list[tuple[str, str, Fold, np.ndarray]]:
        """Returns the constants that a cut adds to biases; see `folding.folded`."""
        paths = dict(zip(self.traced.frame.jaxpr.invars, self.leaves, strict=False))
        result = []
        for name, flags in self.checked(keep).items():
            family = self[name]
            for fold in family.folds if not flags.all() else ():
                kernel, bias = paths[fold.weight], paths[fold.bias]
                (own,) = (s for s in family.slices if s.place == (kernel, fold.axis))
                removed = [own.indices(int(i)) for i in np.flatnonzero(~flags)]
                result.append((kernel, bias, fold, np.concatenate(removed)))
        return result

    def masks(self, keep: Keep, like: PyTree) -> PyTree:
        """Returns the masks that a cut is equal to: bool, True keeps.

        A model whose weights are zeroed by them computes what the cut model does.

        Args:
            keep: which units stay, by family.
            like: the variables, or the parameters among them.

        Returns:
            A tree of bool like `like`: False in the slices of removed units, at the
            places that the proof asks for.
        """
        return jax.tree.map(jnp.asarray, self.numpy_masks(keep, like))

    def numpy_masks(self, keep: Keep, like: PyTree) -> PyTree:
        """Returns `masks` as arrays of numpy, which no device holds yet."""
        flags = self.checked(keep)
        gone: dict[str, dict[int, np.ndarray]] = {}
        for family in self.families:
            removed = ~flags[family.name]
            if not removed.any():
                continue
            for own in family.slices:
                if own.place not in family.zeroed:
                    continue
                here = np.zeros(own.units[0].shape, bool)
                for labels in own.units:
                    here |= np.where(labels < 0, False, removed[labels])
                at = gone.setdefault(own.path, {})
                at[own.axis] = at.get(own.axis, False) | here

        def mask(leaf: Any, path: str | None) -> Any:
            result = np.ones(jnp.shape(leaf), bool)
            for axis, here in (gone.get(path, {}) if path is not None else {}).items():
                shape = [1] * result.ndim
                shape[axis] = -1
                result &= ~here.reshape(shape)
            return result

        paths = align(like, self.leaves, what="like")
        leaves = [
            mask(leaf, path)
            for (_, leaf), path in zip(named_leaves(like), paths, strict=True)
        ]
        return jax.tree.structure(like).unflatten(leaves)

    def explain(self, path: str) -> str:
        """Says in words whether and how each axis of a leaf can be cut.

        Raises:
            KeyError: if the model has no such leaf.
        """
        if path not in self.leaves:
            near = [own for own in self.leaves if own.endswith(path.split("/")[-1])]
            hint = f"; there are {', '.join(near[:5])}" if near else ""
            raise KeyError(f"the model has no leaf {path!r}{hint}")
        lines = [f"{path} {describe(self.leaves[path])}"]
        for axis, size in enumerate(self.leaves[path].shape):
            said = [
                f"{family.size} units of {family.name}, which are removed with "
                + _listed([s for s in family.slices if s.place != (path, axis)])
                + ("; their constant goes into a bias" if family.folds else "")
                for family in self.families
                if any(s.place == (path, axis) for s in family.slices)
            ]
            # Of a product or a sum of axes some may be cut and others not.
            stays = "its other part stays" if said else "cannot be cut"
            said += [
                f"{stays}: {refused.reason}"
                for refused in self.refused
                if (path, axis) in refused.places
            ]
            lines.append(f"  axis {axis} of {size}: " + "\n    ".join(said))
        return "\n".join(lines)

    def __str__(self) -> str:
        if not self.families:
            why = "\n".join(f"  {refused}" for refused in self.refused[:5])
            return f"no units can be removed:\n{why}"
        rows = [("family", "units", "made by", "goes with")]
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
        spans = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(span) if i == 1 else cell.ljust(span)
                for i, (cell, span) in enumerate(zip(row, spans, strict=True))
            ).rstrip()
            for row in rows
        ]
        units = sum(family.size for family in self.families)
        kinds = f"{len(self)} famil{'y' if len(self) == 1 else 'ies'}"
        return "\n".join([*lines, f"{units} units in {kinds}"])


def _listed(slices: list) -> str:
    names = [f"{s.path}[{s.axis}]" for s in slices]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing else"
