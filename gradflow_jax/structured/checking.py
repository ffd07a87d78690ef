"""Whether a cut model computes what the masked full model does, on real numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.variables import variables_in
from gradflow_jax.structured.cutting import cut
from gradflow_jax.structured.plans import removal_masks
from gradflow_jax.structured.shrinking import Shrunk
from gradflow_jax.structured.units import Keep, Units, check_units
from gradflow_jax.trees import (
    ArrayTree,
    aligned_leaves,
    check_number,
    widen,
)
from gradflow_jax.trees.checks import check_numbers

CUT_TOLERANCE = 1e-4
"""How far the outputs of a cut model may be from those of the masked one, relative to
the largest: the two sum in different orders, and differ by rounding."""


def cut_error(variables: ArrayTree, units: Units, keep: Keep, *inputs: Any) -> float:
    """Returns how far a cut model's output is from the masked full model's.

    The last check of a cut, on real numbers: what the proof promises is 0 but for
    rounding. `gf.structured.check_cut` compares outputs that are there already.

    Args:
        variables: the full model's, or the module that holds them.
        units: of the model.
        keep: bool [units] for families that are cut, by name, True keeps.
        *inputs: a batch.

    Returns:
        The largest absolute difference, relative to the largest absolute output; NaN
        where an output is not a number.

    Raises:
        TypeError: if the variables are a model that holds none, if units are not what
            `gf.find_units` returned, or if the inputs are missing.
        ValueError: if keep is out of range, or the variables are another model's.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 1))}
        >>> x = jnp.array([[1.0, 2.0, 4.0]])
        >>> units = gf.find_units(apply, params, x)
        >>> keep = {"in[1]": np.array([True, False, True])}
        >>> gf.cut_error(params, units, keep, x)
        0.0
    """
    check_units(units)
    variables = variables_in(variables, what="variables")
    check_numbers(variables, "variables", or_shapes=False)
    check_numbers(inputs, "inputs", or_shapes=False)
    if not jax.tree.leaves(inputs):
        raise TypeError(
            "cut_error(variables, units, keep, *inputs) lacks the inputs: a batch as "
            "the model is called with."
        )
    return error_of(Shrunk(units, keep), variables, *inputs)


def error_of(shrunk: Shrunk, variables: ArrayTree, *inputs: Any) -> float:
    """Returns what `cut_error` does, of a model that is shrunk already.

    Two programs are compiled: the masked model, once for all keep sets, and the cut
    one with the comparison.
    """
    units, keep = shrunk.units, shrunk.keep
    flags = units.check_keep(keep)
    masks = removal_masks(units.families, flags, units.model.variables, variables)
    full = units.model.run_masked(variables, masks, *inputs)
    small = cut(variables, units, keep)

    @jax.jit
    def distances(small: ArrayTree, full: ArrayTree, *inputs: Any) -> Any:
        return _distances(*shrunk.outputs(small, full, *inputs))

    return _relative(distances(small, full, *inputs))


def check_cut(
    outputs: ArrayTree,
    expected: ArrayTree,
    *,
    tolerance: float = CUT_TOLERANCE,
    what: str = "the cut model",
) -> None:
    """Refuses a cut model whose outputs are not those of the masked full model.

    For outputs of the very model that is used from here on, on a batch of real data;
    `gf.cut_error` computes both outputs itself.

    Args:
        outputs: what the cut model returned, a tree of arrays.
        expected: what the full model returned with the removed units' weights at zero
            (`units.masks(keep, variables)`), of the same shapes.
        tolerance: the largest absolute difference that is rounding, relative to the
            largest absolute output.
        what: how an error calls the cut model.

    Returns:
        Nothing.

    Raises:
        TypeError: if a leaf is no array of numbers, or the tolerance no number.
        ValueError: if they differ by more, if one is not a number, if they are trees
            of other paths or shapes, or if they hold no number at all.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 1))}
        >>> x = jnp.array([[1.0, 2.0, 4.0]])
        >>> units = gf.find_units(apply, params, x)
        >>> keep = {"in[1]": np.array([True, False, True])}
        >>> small = gf.shrink(apply, units, keep)
        >>> outputs = small(gf.cut(params, units, keep), x)
        >>> masked = gf.prune(params, units.masks(keep, params))
        >>> gf.structured.check_cut(outputs, apply(masked, x))
    """
    check_number(tolerance, "tolerance", least=0.0)
    for name, tree in (("outputs", outputs), ("expected", expected)):
        check_numbers(tree, name, or_shapes=False)
    leaves = aligned_leaves(outputs, expected, what="outputs", like_what="expected")
    error = _relative(_jitted_distances(leaves, jax.tree.leaves(expected)))
    # The comparison is negated, so that an error that is NaN is refused too.
    if not error <= tolerance:
        raise ValueError(
            f"{what} differs from the masked one by {error:.2g} of its largest output; "
            f"{tolerance:g} is allowed. No result of this cut can be trusted: check "
            "that both ran on one batch, in eval mode, and that the units were found "
            "in this model."
        )


def _distances(
    outputs: list[jax.Array], expected: list[jax.Array]
) -> list[tuple[jax.Array, jax.Array]]:
    """Returns of each array the largest difference, and the largest expected value."""
    if not any(map(jnp.size, expected)):
        raise ValueError(
            "the outputs hold no number, so that nothing is compared: run both models "
            "on a batch of examples."
        )
    # Bools have no difference, and those of narrow floats are computed in float32.
    pairs = [
        (widen(leaf), widen(wanted))
        for leaf, wanted in zip(outputs, expected, strict=True)
    ]
    return [
        (
            jnp.max(jnp.abs(wanted - leaf), initial=0),
            jnp.max(jnp.abs(wanted), initial=0),
        )
        for leaf, wanted in pairs
    ]


_jitted_distances = jax.jit(_distances)


def _relative(distances: list[tuple[Any, Any]]) -> float:
    # Python's max would pass over a NaN, np.max does not.
    return float(
        np.max([float(far) / (float(largest) or 1.0) for far, largest in distances])
    )
