"""Allots to each layer how many weights it keeps: a tree like params of ints."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import (
    Allocation,
    ArrayTree,
    Params,
    Patterns,
    Prunable,
    aligned_leaves,
    check_floating,
    checked_fraction,
    default_prunable,
    is_traced,
    label,
    match_paths,
    named_leaves,
    prunable_flags,
)


def erdos_renyi(
    params: Params,
    *,
    sparsity: float,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Allocation:
    """Allots to each layer a density in proportion to (inputs + outputs) / weights.

    Small and narrow layers stay denser than wide ones, as in a random bipartite
    graph of constant mean degree. Of a kernel [..., in, out] only in and out count;
    `erdos_renyi_kernel` counts the window too and is the better one for convolutions.

    Args:
        params: the parameters, or scores; only shapes matter.
        sparsity: the fraction of all prunable weights that is removed, in [0, 1].
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        An allocation for `gf.layerwise_masks`: a tree like params with the number of
        weights each leaf keeps. Over the prunable leaves it sums to n − round(sparsity
        · n) exactly; a layer that would need more than all its weights is kept whole.

    Raises:
        TypeError: if `sparsity` is traced or a leaf is not real floating-point.
        ValueError: if sparsity is outside [0, 1] or no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> params = {"a": jnp.ones((10, 10)), "b": jnp.ones((10, 40))}
        >>> gf.erdos_renyi(params, sparsity=0.8)  # 20 : 50, scaled to 100
        {'a': 29, 'b': 71}

    Reference:
        Mocanu et al., Scalable training of artificial neural networks with adaptive
        sparse connectivity inspired by network science, Nature Communications 2018.
    """

    def numerator(shape: Sequence[int]) -> int:
        return math.prod(shape[:-2]) * sum(shape[-2:])

    return _allot_in_proportion(params, sparsity, prunable, ignore, numerator)


def erdos_renyi_kernel(
    params: Params,
    *,
    sparsity: float,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Allocation:
    """Allots to each layer a density in proportion to Σ shape / Π shape.

    Other than in `erdos_renyi` the window of a convolution counts too: a kernel
    [height, width, in, out] gets (height + width + in + out) / weights. It is the
    usual choice for sparse training (RigL).

    Args:
        params: the parameters, or scores; only shapes matter.
        sparsity: the fraction of all prunable weights that is removed, in [0, 1].
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        An allocation for `gf.layerwise_masks`: a tree like params with the number of
        weights each leaf keeps. Over the prunable leaves it sums to n − round(sparsity
        · n) exactly; a layer that would need more than all its weights is kept whole.

    Raises:
        TypeError: if `sparsity` is traced or a leaf is not real floating-point.
        ValueError: if sparsity is outside [0, 1] or no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> params = {"conv": jnp.ones((3, 3, 4, 8)), "dense": jnp.ones((32, 10))}
        >>> gf.erdos_renyi_kernel(params, sparsity=0.9)  # 18 : 42, scaled to 61
        {'conv': 18, 'dense': 43}

    Reference:
        Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020.
    """
    # The number that is kept is the density, Σ/Π, times the number of weights, Π.
    return _allot_in_proportion(params, sparsity, prunable, ignore, sum)


def quotas(
    params: Params,
    by_path: Mapping[str, float],
    *,
    sparsity: float = 0.0,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Allocation:
    """Allots to each layer a sparsity of its own, by the name of the leaf.

    Args:
        params: the parameters, or scores; only shapes matter.
        by_path: sparsity by path or shell pattern, `{"conv*/kernel": 0.5}`; of several
            patterns that match a leaf the first decides. A path named here is pruned
            even where `prunable` says no.
        sparsity: that of the other prunable leaves.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        An allocation for `gf.layerwise_masks`: a tree like params with the number of
        weights each leaf keeps, n − round(sparsity · n) of n.

    Raises:
        TypeError: if a sparsity is traced or a leaf is not real floating-point.
        ValueError: if a sparsity is outside [0, 1], if a pattern matches no leaf, or
            if no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> params = {"conv": jnp.ones((2, 5)), "dense": jnp.ones((5, 4))}
        >>> gf.quotas(params, {"conv": 0.5}, sparsity=0.9)
        {'conv': 5, 'dense': 2}
    """
    check_floating(params, "params")
    checked_fraction(sparsity, "sparsity")
    paths_and_leaves = named_leaves(params)
    paths = [path for path, _ in paths_and_leaves]
    patterns = dict(zip(paths, first_matches(paths, by_path), strict=True))
    flags = prunable_flags(
        params,
        lambda path, leaf: patterns[path] is not None or prunable(path, leaf),
        ignore,
    )
    keep = []
    for (path, leaf), flag in zip(paths_and_leaves, flags, strict=True):
        pattern = patterns[path]
        size = math.prod(jnp.shape(leaf))
        quota = sparsity if pattern is None else by_path[pattern]
        keep.append(kept_number(size, quota) if flag else size)
    return jax.tree.structure(params).unflatten(keep)


def first_matches(
    paths: Sequence[str], by_path: Mapping[str, float]
) -> list[str | None]:
    """Returns for each path the first of the patterns that matches it, or None.

    Raises:
        TypeError: if a sparsity is traced or is no number.
        ValueError: if a sparsity is outside [0, 1] or a pattern matches no leaf.
    """
    matches: list[str | None] = [None] * len(paths)
    for pattern, quota in by_path.items():
        checked_fraction(quota, f"the quota {pattern!r}")
        flags = match_paths(pattern, paths, what="the quota")
        matches = [
            pattern if first is None and flag else first
            for first, flag in zip(matches, flags, strict=True)
        ]
    return matches


def kept_number(size: int, sparsity: float) -> int:
    """Returns how many of `size` weights are kept: size − round(sparsity · size)."""
    return size - round(checked_fraction(sparsity, "sparsity") * size)


def checked_allocation(allocation: Allocation, like: ArrayTree) -> list[int]:
    """Returns the leaves of an allocation, checked to fit the tree `like`.

    Raises:
        TypeError: at a leaf that is not a whole number.
        ValueError: if it is another tree or keeps more weights than a leaf has.
    """
    counts = jax.tree.map(lambda leaf: 0, like)
    keep = aligned_leaves(allocation, counts, what="allocation", like_what="scores")
    for (path, leaf), number in zip(named_leaves(like), keep, strict=True):
        # An array of one integer will do too, but True is no number of weights.
        whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        if not whole and not is_traced(number):
            array = np.asarray(number)
            whole = array.ndim == 0 and np.issubdtype(array.dtype, np.integer)
        if not whole:
            shown = "traced by jax.jit" if is_traced(number) else repr(number)
            raise TypeError(
                f"allocation {label(path)} is {shown}, not a number of weights; "
                "gf.quotas turns sparsities into numbers."
            )
        if not 0 <= number <= jnp.size(leaf):
            raise ValueError(
                f"allocation {label(path)} keeps {number} weights of a leaf that has "
                f"{jnp.size(leaf)}: allot from none to all of them."
            )
    return [int(number) for number in keep]


def _allot_in_proportion(
    params: Params,
    sparsity: float,
    prunable: Prunable,
    ignore: Patterns,
    numerator: Callable[[Sequence[int]], int],
) -> Allocation:
    """Allots numbers of weights in proportion to `numerator(shape)`, density · size."""
    check_floating(params, "params")
    leaves = jax.tree.leaves(params)
    flags = prunable_flags(params, prunable, ignore)
    sizes = [math.prod(jnp.shape(leaf)) for leaf in leaves]
    pruned = [i for i, flag in enumerate(flags) if flag]
    total = kept_number(sum(sizes[i] for i in pruned), sparsity)
    shares = _split_in_proportion(
        total,
        [max(1, numerator(jnp.shape(leaves[i]))) for i in pruned],
        [sizes[i] for i in pruned],
    )
    keep = list(sizes)
    for i, share in zip(pruned, shares, strict=True):
        keep[i] = share
    return jax.tree.structure(params).unflatten(keep)


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
