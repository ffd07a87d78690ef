"""What a keep set does to a model: to the axes of its program, its masks, its biases.

What is not its check takes flags for every family, `units.check_keep(keep)`; `Units`
and the verbs that cut ask these functions, so that `Units` itself shows what was found
and no more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.tracing import Traced
from gradflow_jax.structured.families import Family, Place
from gradflow_jax.structured.proof.folds import Fold
from gradflow_jax.structured.running.cut_program import Plan
from gradflow_jax.trees import ArrayTree, Masks, describe, is_traced, named_leaves
from gradflow_jax.trees.numbers import quote

# Flags [unit] of every family, by its name: True keeps.
Flags = Mapping[str, np.ndarray]


def check_keep(keep: Any, families: Sequence[Family]) -> dict[str, np.ndarray]:
    """Returns flags for every family, where a keep set names some.

    Raises:
        TypeError: if it is no mapping, or traced by `jax.jit`.
        ValueError: if a family is unknown, its flags are not one bool for each unit, or
            none of its units would stay.
    """
    if not isinstance(keep, Mapping):
        raise TypeError(
            f"keep is {quote(keep)}: pass bools [units] by the names of families, as "
            "gf.choose_units returns them."
        )
    known = {family.name: family for family in families}
    complete = {name: np.ones(family.size, bool) for name, family in known.items()}
    for name, value in keep.items():
        if name not in known:
            raise ValueError(
                f"keep names the family {quote(name)}; {known_names(families)}."
            )
        size = known[name].size
        flags = _as_flags(name, value, size)
        if flags.shape != (size,):
            raise ValueError(
                f"keep of {name!r} has shape {flags.shape}, but the family has {size} "
                "units."
            )
        if not flags.any():
            raise ValueError(
                f"keep of {name!r} keeps none of its {size} units: a layer of width 0 "
                "lets nothing through. Keep at least one."
            )
        complete[name] = flags
    return complete


def _as_flags(name: str, value: Any, size: int) -> np.ndarray:
    """Returns what a keep set says of a family, which are bools, as an array."""
    if is_traced(value):
        raise TypeError(
            f"keep of {name!r} is traced by jax.jit or a like transformation, and the "
            "shapes of a cut model depend on it: cut outside."
        )
    flags: Any = value
    try:
        flags = np.asarray(value)
    # NumPy makes no array of lists of several lengths, nor of keys.
    except (TypeError, ValueError):
        pass
    if getattr(flags, "dtype", None) != np.bool_:
        raise ValueError(
            f"keep of {name!r} is {describe(flags)}; it is one bool for each of its "
            f"{size} units, True keeps. Of indices i make it by "
            f"np.isin(np.arange({size}), i)."
        )
    return flags


def known_names(families: Sequence[Family]) -> str:
    """Returns what an error says of the families that there are."""
    names = [family.name for family in families]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"there are {', '.join(names[:5])}{more}" if names else "there are none"


def axis_flags(families: Sequence[Family], flags: Flags) -> dict[Axis, np.ndarray]:
    """Returns which indices stay of the program's axes that lose any."""
    result: dict[Axis, np.ndarray] = {}
    for family in families:
        if not flags[family.name].all():
            result.update(family.keep(flags[family.name]))
    return result


def folds_of(
    families: Sequence[Family],
    flags: Flags,
    program: Traced,
) -> list[tuple[str, str, Fold, np.ndarray]]:
    """Returns the constants that a cut adds to biases.

    Returns:
        For each the kernel's path, the bias's path, what is folded, and the removed
        indices of the kernel's axis.
    """
    path_of = dict(zip(program.frame.jaxpr.invars, program.leaves, strict=False))
    result = []
    for family in families:
        kept = flags[family.name]
        for fold in family.folds if not kept.all() else ():
            kernel, bias = path_of[fold.weight], path_of[fold.bias]
            (slice_,) = (s for s in family.slices if s.place == (kernel, fold.axis))
            removed = [slice_.indices(int(i)) for i in np.flatnonzero(~kept)]
            result.append((kernel, bias, fold, np.concatenate(removed)))
    return result


def group_numbers(plan: Plan, program: Traced) -> dict[str, int]:
    """Returns how many groups convolutions and norms have after a cut, by module.

    A norm's channels are a product of groups and of channels in a group, which the
    program's reshape told; it has no kernel.
    """
    counts = {}
    kernels = {_module(path) for path, dims in program.dims.items() if dims[1:]}
    for path, dims in program.dims.items():
        norm = len(dims) == 1 and _module(path) not in kernels
        if norm and len(axes.factors(dims[0])) > 1:
            counts[_module(path)] = plan.size(axes.factors(dims[0])[0])
    for path, (features, taken) in program.coupling.groups.items():
        counts[_module(path)] = plan.size(features) // plan.size(taken)
    return counts


def _module(path: str) -> str:
    return path.rpartition("/")[0].removeprefix("params/")


def removal_masks(
    families: Sequence[Family],
    flags: Flags,
    variables: ArrayTree,
    like: ArrayTree,
) -> Masks:
    """Returns the masks that a cut is equal to, in NumPy, which no device holds yet.

    Args:
        families: of the model.
        flags: which units stay.
        variables: the model's, or their shapes.
        like: the variables, or the parameters among them.
    """
    removed_of = _removed_indices(families, flags)

    def mask(leaf: Any, path: str | None) -> np.ndarray:
        result = np.ones(jnp.shape(leaf), bool)
        for (place_path, axis), removed in removed_of.items():
            if place_path == path:
                shape = [1] * result.ndim
                shape[axis] = -1
                result &= ~removed.reshape(shape)
        return result

    paths = align(like, variables, what="like")
    masks = [
        mask(leaf, path)
        for (_, leaf), path in zip(named_leaves(like), paths, strict=True)
    ]
    return jax.tree.structure(like).unflatten(masks)


def _removed_indices(
    families: Sequence[Family], flags: Flags
) -> dict[Place, np.ndarray]:
    """Returns which indices of a leaf's axis go, where their zeroing is removal."""
    result: dict[Place, np.ndarray] = {}
    for family in families:
        is_removed = ~flags[family.name]
        if not is_removed.any():
            continue
        for slice_ in family.slices:
            if slice_.place not in family.zeroed:
                continue
            indices = result.setdefault(
                slice_.place, np.zeros(slice_.units[0].shape, bool)
            )
            for labels in slice_.units:
                indices |= np.where(labels < 0, False, is_removed[labels])
    return result
