"""How many weights each layer keeps: an allocation, a tree like params of ints."""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import (
    Prunable,
    PyTree,
    aligned_leaves,
    check_floating,
    checked_fraction,
    default_prunable,
    is_traced,
    label,
    named_leaves,
    prunable_flags,
)


def erdos_renyi(
    params: PyTree, *, sparsity: float, prunable: Prunable = default_prunable
) -> PyTree:
    """Allots to each layer a density in proportion to (inputs + outputs) / weights.

    Small and narrow layers stay denser than wide ones, as in a random bipartite
    graph of constant mean degree. Of a kernel [..., in, out] only in and out count;
    `erdos_renyi_kernel` counts the window too and is the better one for convolutions.

    Args:
        params: the parameters, or scores; only shapes matter.
        sparsity: the fraction of all prunable weights that is removed, in [0, 1].
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.

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

    return _proportional(params, sparsity, prunable, numerator)


def erdos_renyi_kernel(
    params: PyTree, *, sparsity: float, prunable: Prunable = default_prunable
) -> PyTree:
    """Allots to each layer a density in proportion to Σ shape / Π shape.

    As `erdos_renyi`, but the window of a convolution counts too: a kernel
    [height, width, in, out] gets (height + width + in + out) / weights. The usual
    choice for sparse training (RigL).

    Args:
        params: the parameters, or scores; only shapes matter.
        sparsity: the fraction of all prunable weights that is removed, in [0, 1].
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.

    Returns:
        An allocation as of `erdos_renyi`.

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
    # The number kept is the density, Σ/Π, times the number of weights, Π.
    return _proportional(params, sparsity, prunable, sum)


def quotas(
    params: PyTree,
    by_path: Mapping[str, float],
    *,
    sparsity: float = 0.0,
    prunable: Prunable = default_prunable,
) -> PyTree:
    """Allots to each layer a sparsity of its own, by the name of the leaf.

    Args:
        params: the parameters, or scores; only shapes matter.
        by_path: sparsity by path or shell pattern, `{"conv*/kernel": 0.5}`; of several
            patterns that match a leaf the first decides. A path named here is pruned
            even where `prunable` says no.
        sparsity: that of the other prunable leaves.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.

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
    named = named_leaves(params)
    found = families(named, by_path)
    patterns = {path: p for (path, _), p in zip(named, found, strict=True)}
    flags = prunable_flags(
        params, lambda path, leaf: patterns[path] is not None or prunable(path, leaf)
    )
    keep = []
    for (path, leaf), flag in zip(named, flags, strict=True):
        pattern = patterns[path]
        size = math.prod(jnp.shape(leaf))
        quota = sparsity if pattern is None else by_path[pattern]
        keep.append(kept_number(size, quota) if flag else size)
    return jax.tree.structure(params).unflatten(keep)


def families(
    named: Sequence[tuple[str, Any]], by_path: Mapping[str, float]
) -> list[str | None]:
    """Returns for each leaf the first pattern that matches its path, or None.

    Raises:
        TypeError: if a sparsity is traced or is no number.
        ValueError: if a sparsity is outside [0, 1] or a pattern matches no leaf.
    """
    for pattern, quota in by_path.items():
        checked_fraction(quota, f"the quota {pattern!r}")
        if not any(fnmatch.fnmatchcase(path, pattern) for path, _ in named):
            raise ValueError(
                f"the quota {pattern!r} matches no leaf; the leaves are "
                f"{', '.join(path for path, _ in named)}."
            )
    return [
        next((p for p in by_path if fnmatch.fnmatchcase(path, p)), None)
        for path, _ in named
    ]


def kept_number(size: int, sparsity: float) -> int:
    """Returns how many of `size` weights are kept: size − round(sparsity · size)."""
    return size - round(checked_fraction(sparsity, "sparsity") * size)


def checked_allocation(allocation: PyTree, like: PyTree) -> list[int]:
    """Returns the leaves of an allocation, checked to fit the tree `like`.

    Raises:
        TypeError: at a leaf that is not a whole number.
        ValueError: if it is another tree or keeps more weights than a leaf has.
    """
    counts = jax.tree.map(lambda leaf: 0, like)
    keep = aligned_leaves(allocation, counts, what="allocation", like_what="scores")
    for (path, leaf), number in zip(named_leaves(like), keep, strict=True):
        whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        if not whole and not is_traced(number):
            array = np.asarray(number)
            whole = array.ndim == 0 and np.issubdtype(array.dtype, np.integer)
        if not whole:
            found = "traced by jax.jit" if is_traced(number) else repr(number)
            raise TypeError(
                f"allocation {label(path)} is {found}, not a number of weights; "
                "gf.quotas turns sparsities into numbers."
            )
        if not 0 <= number <= jnp.size(leaf):
            raise ValueError(
                f"allocation {label(path)} keeps {number} weights of a leaf that has "
                f"{jnp.size(leaf)}: allot from none to all of them."
            )
    return [int(number) for number in keep]


def _proportional(
    params: PyTree,
    sparsity: float,
    prunable: Prunable,
    numerator: Callable[[Sequence[int]], int],
) -> PyTree:
    """Allots numbers of weights in proportion to `numerator(shape)`, density · size."""
    check_floating(params, "params")
    leaves = jax.tree.leaves(params)
    flags = prunable_flags(params, prunable)
    sizes = [math.prod(jnp.shape(leaf)) for leaf in leaves]
    chosen = [i for i, flag in enumerate(flags) if flag]
    keep = kept_number(sum(sizes[i] for i in chosen), sparsity)
    shares = _shares(
        keep,
        [max(1, numerator(jnp.shape(leaves[i]))) for i in chosen],
        [sizes[i] for i in chosen],
    )
    numbers = list(sizes)
    for i, share in zip(chosen, shares, strict=True):
        numbers[i] = share
    return jax.tree.structure(params).unflatten(numbers)


def _shares(total: int, weights: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Splits `total` into whole numbers in proportion to weights, none above its cap.

    What a full layer cannot take goes to the others. Largest remainders are rounded
    up, so that the sum is exact; among equal remainders the earlier comes first.
    """
    shares = [0.0] * len(caps)
    open_ones = [i for i, cap in enumerate(caps) if cap]
    left = total
    while open_ones:
        scale = left / sum(weights[i] for i in open_ones)
        full = [i for i in open_ones if scale * weights[i] >= caps[i]]
        for i in full or open_ones:
            shares[i] = caps[i] if full else scale * weights[i]
        if not full:
            break
        left -= sum(caps[i] for i in full)
        open_ones = [i for i in open_ones if i not in full]
    whole = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(caps)), key=lambda i: whole[i] - shares[i])
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole
