"""Groups the free axes of a program into families of units, and proves each."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import Literal

from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis, Reason
from gradflow_jax.structured.coupling.frames import Frame
from gradflow_jax.structured.coupling.program import Kind, Mark
from gradflow_jax.structured.coupling.tracing import Traced
from gradflow_jax.structured.families import Family, Place, Refused, Slices, labels
from gradflow_jax.structured.proof import walk
from gradflow_jax.structured.proof.folds import Fold
from gradflow_jax.structured.proof.removed_values import UNKNOWN, Refusal, Uniform
from gradflow_jax.structured.proof.removed_values import Slices as Removed

_NOT_MADE = Reason("nothing makes it and reads it: no contraction of a weight does")
_UNREAD = Reason("no equation of the model reads the leaf")


class Index:
    """Which equations touch which undefined axes; made once coupling is done."""

    def __init__(self, frame: Frame):
        self._roots: dict[int, frozenset[int]] = {}
        self._touched: dict[Frame, dict[int, list[int]]] = {}
        self._fill(frame)

    def roots_of(self, axis: Axis) -> frozenset[int]:
        """Returns the numbers of the undefined axes that an axis is made of."""
        axis = axes.find(axis)
        if axis.number not in self._roots:
            numbers = frozenset(root.number for root in axes.roots(axis))
            self._roots[axis.number] = numbers
        return self._roots[axis.number]

    def _fill(self, frame: Frame) -> set[int]:
        equations_of: dict[int, list[int]] = defaultdict(list)
        for index, eqn in enumerate(frame.jaxpr.eqns):
            touched: set[int] = set()
            for atom in (*eqn.invars, *eqn.outvars):
                if not isinstance(atom, Literal):
                    for axis in frame.dims[atom]:
                        touched |= self.roots_of(axis)
            for child in frame.children.get(index, ()):
                touched |= self._fill(child)
            for root in touched:
                equations_of[root].append(index)
        self._touched[frame] = equations_of
        return set(equations_of)

    def equations_touching(self, frame: Frame, removed: frozenset[int]) -> list[int]:
        """Returns the indices of a frame's equations that touch some axes."""
        equations_of = self._touched[frame]
        if len(removed) == 1:
            return equations_of.get(next(iter(removed)), [])
        return sorted(
            {index for root in removed for index in equations_of.get(root, ())}
        )


def families_of(
    traced: Traced, parameters: Callable[[str], bool], leaks: str
) -> tuple[list[Family], list[Refused]]:
    """Groups the free axes of a traced model into families and proves each.

    Args:
        traced: a model.
        parameters: which paths are trained; other leaves are statistics and the like.
        leaks: "refuse" or "fold" a family of which a constant leaks on.
    """
    index, uniform, read = Index(traced.frame), Uniform(), traced.read()
    families: list[Family] = []
    refused = _refuse_pinned(traced)
    candidates = list(_candidates(traced))
    totals = Counter(_place_name(slices) for _, slices in candidates)
    names: Counter[str] = Counter()
    for roots, slices in candidates:
        name = _place_name(slices)
        names[name] += 1
        if totals[name] > 1:
            name = f"{name}.{names[name] - 1}"
        size = sum(root.size for root in roots)
        removed = frozenset(root.number for root in roots)
        kinds = {kind for s in slices for kind in s.kinds}
        if all(s.path not in read for s in slices):
            proof = Refusal(_UNREAD)
        elif size == 1 or not kinds & {"producing", "consuming"}:
            proof = Refusal(_NOT_MADE)
        else:
            proof = _prove(traced, index, uniform, removed, slices, parameters, leaks)
        if isinstance(proof, Refusal):
            refused.append(Refused(tuple(s.place for s in slices), proof.reason))
            continue
        reads_input = any(
            mark.reads_input and mark.kind == "producing"
            for mark in traced.coupling.marks
            if not removed.isdisjoint(index.roots_of(mark.axis))
        )
        families.append(Family(name, size, slices, *proof, reads_input, tuple(roots)))
    return families, refused


def _refuse_pinned(traced: Traced) -> list[Refused]:
    """Returns the places of which something is pinned, by reason."""
    places: dict[Reason, dict[Place, None]] = defaultdict(dict)
    for path, dims in traced.dims.items():
        for axis, dim in enumerate(dims):
            for root in axes.roots(dim):
                # Of a part that has no index there is nothing to say.
                if root.reason is not None and (root.size or not dim.size):
                    places[root.reason][path, axis] = None
    return [
        Refused(tuple(pinned_places), reason)
        for reason, pinned_places in places.items()
    ]


def _place_name(slices: Sequence[Slices]) -> str:
    producing = [s for s in slices if "producing" in s.kinds] or slices
    return f"{producing[0].path}[{producing[0].axis}]"


def _candidates(traced: Traced) -> Iterator[tuple[list[Axis], tuple[Slices, ...]]]:
    """Yields the free axes that leaves are made of, with the slices of each.

    Single indices with the same places are one family: a permutation or a choice of
    channels takes them apart.
    """
    marks = _marks_by_leaf(traced.coupling.marks)
    order: list[Axis] = []
    places: dict[int, list[Place]] = defaultdict(list)
    for path, dims in traced.dims.items():
        for axis, dim in enumerate(dims):
            for root in dict.fromkeys(axes.roots(dim)):
                if root.reason is None:
                    if root.number not in places:
                        order.append(root)
                    places[root.number].append((path, axis))
    grouped: dict[Any, list[Axis]] = {}
    for root in order:
        places_of_root = tuple(places[root.number])
        key = places_of_root if root.size == 1 else root.number
        grouped.setdefault(key, []).append(root)
    for roots in grouped.values():
        slices = []
        for path, axis in places[roots[0].number]:
            dim = traced.dims[path][axis]
            kinds = _kinds(marks[path], dim, roots, len(traced.dims[path]))
            slices.append(Slices(path, axis, kinds, labels(dim, roots)))
        yield roots, tuple(slices)


def _marks_by_leaf(marks: Sequence[Mark]) -> dict[str, list[Mark]]:
    marks_of: dict[str, list[Mark]] = defaultdict(list)
    for mark in marks:
        for leaf in mark.leaves:
            marks_of[leaf].append(mark)
    return marks_of


def _kinds(
    marks: Sequence[Mark], dim: Axis, roots: Sequence[Axis], rank: int
) -> frozenset[Kind]:
    """Returns what a leaf's axis is for.

    A mark on this very axis decides; on an axis that a reshape made of it, the marks
    of what it is made of. A recurrent kernel has one root on two axes.
    """
    exact: set[Kind] = {mark.kind for mark in marks if mark.axis is dim}
    if exact:
        return frozenset(exact)
    numbers = {root.number for root in roots}
    derived: set[Kind] = {
        mark.kind
        for mark in marks
        if rank > 1 and not numbers.isdisjoint(r.number for r in axes.roots(mark.axis))
    }
    return frozenset(derived or {"elementwise"})


def _prove(
    traced: Traced,
    index: Index,
    uniform: Uniform,
    removed: frozenset[int],
    slices: Sequence[Slices],
    parameters: Callable[[str], bool],
    leaks: str,
) -> tuple[frozenset[Place], tuple[Fold, ...]] | Refusal:
    """Returns the places whose zeroing is removal, and the constants to be folded.

    Tried are what makes the units and goes with them, then what reads them too; of
    parameters first, then of statistics as well. A constant that leaks ends it: zeroing
    the next layer's rows would hide it.
    """
    makers = [s for s in slices if s.kinds & {"producing", "elementwise"}]
    tried: list[list[Place]] = []
    first: Refusal | None = None
    for group in (makers, slices):
        for chosen in ([s for s in group if parameters(s.path)], group):
            places = [s.place for s in chosen]
            if places in tried or not places:
                continue
            tried.append(places)
            known = Removed(removed, index.roots_of, uniform, leaks == "fold")
            for path, variable in zip(
                traced.dims, traced.frame.jaxpr.invars, strict=False
            ):
                entries = [
                    0.0 if (path, axis) in places else UNKNOWN
                    for axis in range(len(traced.dims[path]))
                ]
                known.set(traced.frame, variable, entries)
            try:
                walk.run(known, traced.frame, index.equations_touching)
            except Refusal as refusal:
                first = first or refusal
                if refusal.leaks:
                    return refusal
            else:
                return frozenset(places), tuple(known.folds or ())
    return first or Refusal(_NOT_MADE)
