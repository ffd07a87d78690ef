"""Allots densities as random bipartite graphs have them: Erdős and Rényi's."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.masks.allocation import kept_number
from gradflow_jax.masks.keywords import explain_keywords
from gradflow_jax.trees import (
    Allocation,
    Params,
    Patterns,
    Prunable,
    Roles,
    check_floating,
    default_prunable,
    prunable_flags,
)
from gradflow_jax.trees.roles import LinearMap, linear_maps


class _Sizes(NamedTuple):
    """The sizes of a layer: a product of inputs, one of outputs, and the window's."""

    inputs: int
    outputs: int
    window: tuple[int, ...]


@explain_keywords
def erdos_renyi(
    params: Params,
    *,
    sparsity: float,
    roles: Roles | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Allocation:
    """Allots to each layer a density in proportion to (inputs + outputs) / weights.

    Small and narrow layers stay denser than wide ones, as in a random bipartite
    graph of constant mean degree. With `roles` inputs are the product of the "in" axes
    and outputs of the "out" and "head" axes, so that attention gets what the same map
    gets as a dense kernel; of a "stack" or "group" each index is a layer of its own,
    and the density is that of one. Of a convolution only inputs and outputs count:
    `erdos_renyi_kernel` counts the window too and is the better one there.

    Args:
        params: the parameters, or scores; only shapes matter.
        sparsity: the fraction of all prunable weights that is removed, in [0, 1].
        roles: what each axis is, `gf.structured.axis_roles(model, params, x)`. Without
            them Flax's convention holds, (..., in, out), for leaves of two or four
            dimensions whose name is not `weight`, which is (out, in) in Equinox and
            torch; all others are refused, kernels of convolutions in one dimension
            among them.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole. It
            replaces the default rule: begin it with `gf.default_prunable(path, leaf)
            and`, or biases are pruned too.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        An allocation for `gf.layerwise_masks`: a tree like params with the number of
        weights each leaf keeps. Over the prunable leaves it sums to n − round(sparsity
        · n) exactly; a layer that would need more than all its weights is kept whole.

    Raises:
        TypeError: if `sparsity` is traced, a leaf is not real floating-point, or roles
            are no tuples of words.
        ValueError: if sparsity is outside [0, 1], no leaf is prunable, or it is not
            known which axes of a prunable leaf are its inputs.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> params = {"a": jnp.ones((10, 10)), "b": jnp.ones((10, 40))}
        >>> gf.erdos_renyi(params, sparsity=0.8)  # 20 : 50, scaled to 100
        {'a': 29, 'b': 71}
        >>> query = {"a": jnp.ones((10, 2, 5)), "b": jnp.ones((10, 40))}
        >>> roles = {"a": ("in", "head", "out"), "b": ("in", "out")}
        >>> gf.erdos_renyi(query, sparsity=0.8, roles=roles)
        {'a': 29, 'b': 71}

    Reference:
        Mocanu et al., Scalable training of artificial neural networks with adaptive
        sparse connectivity inspired by network science, Nature Communications 2018.
    """

    def numerator(sizes: _Sizes) -> int:
        return math.prod(sizes.window) * (sizes.inputs + sizes.outputs)

    return _allot_in_proportion(params, sparsity, roles, prunable, ignore, numerator)


@explain_keywords
def erdos_renyi_kernel(
    params: Params,
    *,
    sparsity: float,
    roles: Roles | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Allocation:
    """Allots a density in proportion to (window + inputs + outputs) / weights.

    Other than in `erdos_renyi` the window of a convolution counts too: a kernel
    [height, width, in, out] gets (height + width + in + out) / weights. It is the
    usual choice for sparse training (RigL). What is input and output is as there.

    Args:
        params: the parameters, or scores; only shapes matter.
        sparsity: the fraction of all prunable weights that is removed, in [0, 1].
        roles: what each axis is, `gf.structured.axis_roles(model, params, x)`. Without
            them Flax's convention holds, (..., in, out), for leaves of two or four
            dimensions whose name is not `weight`, which is (out, in) in Equinox and
            torch; all others are refused, kernels of convolutions in one dimension
            among them.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole. It
            replaces the default rule: begin it with `gf.default_prunable(path, leaf)
            and`, or biases are pruned too.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        An allocation for `gf.layerwise_masks`: a tree like params with the number of
        weights each leaf keeps. Over the prunable leaves it sums to n − round(sparsity
        · n) exactly; a layer that would need more than all its weights is kept whole.

    Raises:
        TypeError: if `sparsity` is traced, a leaf is not real floating-point, or roles
            are no tuples of words.
        ValueError: if sparsity is outside [0, 1], no leaf is prunable, or it is not
            known which axes of a prunable leaf are its inputs.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> params = {"conv": jnp.ones((3, 3, 4, 8)), "dense": jnp.ones((32, 10))}
        >>> gf.erdos_renyi_kernel(params, sparsity=0.9)  # 18 : 42, scaled to 61
        {'conv': 18, 'dense': 43}

    Reference:
        Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020.
    """

    def numerator(sizes: _Sizes) -> int:
        return sum(sizes.window) + sizes.inputs + sizes.outputs

    return _allot_in_proportion(params, sparsity, roles, prunable, ignore, numerator)


def _allot_in_proportion(
    params: Params,
    sparsity: float,
    roles: Roles | None,
    prunable: Prunable,
    ignore: Patterns,
    numerator: Callable[[_Sizes], int],
) -> Allocation:
    """Allots numbers of weights in proportion to `numerator(sizes)`, of each layer.

    The numerator is that of the density, which times the number of weights is what a
    layer keeps.
    """
    check_floating(params, "params", or_shapes=True)
    leaves = jax.tree.leaves(params)
    flags = prunable_flags(params, prunable, ignore)
    maps = linear_maps(params, flags, what="params", roles=roles)
    sizes = [math.prod(jnp.shape(leaf)) for leaf in leaves]
    pruned = [i for i, flag in enumerate(flags) if flag]
    total = kept_number(sum(sizes[i] for i in pruned), sparsity)
    shares = _split_in_proportion(
        total,
        [max(1, _weight_of(jnp.shape(leaves[i]), maps[i], numerator)) for i in pruned],
        [sizes[i] for i in pruned],
    )
    keep = list(sizes)
    for i, share in zip(pruned, shares, strict=True):
        keep[i] = share
    return jax.tree.structure(params).unflatten(keep)


def _weight_of(
    shape: Sequence[int],
    linear_map: LinearMap | None,
    numerator: Callable[[_Sizes], int],
) -> int:
    """Returns the numerators of all layers that a leaf holds."""
    assert linear_map is not None

    def product(axes: Sequence[int]) -> int:
        return math.prod(shape[axis] for axis in axes)

    sizes = _Sizes(
        product(linear_map.inputs),
        product(linear_map.outputs),
        tuple(shape[axis] for axis in linear_map.window),
    )
    return product(linear_map.layers) * numerator(sizes)


def _split_in_proportion(
    total: int, weights: Sequence[float], caps: Sequence[int]
) -> list[int]:
    """Splits `total` into whole numbers in proportion to weights, none above its cap.

    What a full layer cannot take goes to the others. Largest remainders are rounded
    up, so that the sum is exact; among equal remainders the earlier comes first.
    """
    shares = [0.0] * len(caps)
    unfilled = [i for i, cap in enumerate(caps) if cap]
    left = total
    # Filling a layer leaves more for the others, so that `scale` never falls: a layer
    # once full stays full, and there are no more rounds than layers.
    while unfilled:
        scale = left / sum(weights[i] for i in unfilled)
        full = [i for i in unfilled if scale * weights[i] >= caps[i]]
        for i in full or unfilled:
            shares[i] = caps[i] if full else scale * weights[i]
        if not full:
            break
        left -= sum(caps[i] for i in full)
        unfilled = [i for i in unfilled if i not in full]
    rounded = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(caps)), key=lambda i: rounded[i] - shares[i])
    for i in by_remainder[: total - sum(rounded)]:
        rounded[i] += 1
    return rounded
