"""Measures how far scores agree: by rank correlations, or the overlap of the best."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import (
    Prunable,
    Scores,
    aligned_leaves,
    check_finite,
    check_floating,
    checked_fraction,
    default_prunable,
    fetch,
    named_leaves,
    prunable_flags,
    widen,
)

Comparison = Callable[..., float]


class Agreement(NamedTuple):
    """How far each of several scores agrees with each other one.

    Attributes:
        names: the names of the scores.
        values: float64 [name, name], symmetric.
    """

    names: tuple[str, ...]
    values: np.ndarray


def spearman(a: Scores, b: Scores, *, prunable: Prunable | None = None) -> float:
    """Correlates the ranks of two scores: Spearman's ρ.

    Two measures that rank alike prune alike, whatever their units: the paper's third
    observation is a correlation of magnitude with loss preservation.

    Args:
        a: scores: a tree of real floating-point arrays, or one array.
        b: other scores of the same tree.
        prunable: `prunable(path, leaf) -> bool` chooses what counts. By default
            kernels and embeddings, as everywhere; scores of units, whose arrays all
            have one dimension, count whole.

    Returns:
        ρ in [−1, 1]. Tied scores share the mean of their ranks. NaN if one of the two
        is the same everywhere, or there is but one score: then it has no order.

    Raises:
        TypeError: if a leaf is not a real floating-point array.
        ValueError: if the two are different trees, if no leaf is prunable, or at a
            NaN or an infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 9.0, 4.0])
        >>> gf.scores.spearman(a, b)
        0.5
    """
    return _correlation("spearmanr", *_flatten_pair(a, b, prunable))


def kendall(a: Scores, b: Scores, *, prunable: Prunable | None = None) -> float:
    """Counts how many pairs two scores order alike: Kendall's τ_b.

    Stricter than `spearman` and easier to read: without ties, (1 + τ) / 2 is the
    chance that the two order a pair alike. It takes n log n steps.

    Args:
        a: scores: a tree of real floating-point arrays, or one array.
        b: other scores of the same tree.
        prunable: `prunable(path, leaf) -> bool` chooses what counts. By default
            kernels and embeddings, as everywhere; scores of units, whose arrays all
            have one dimension, count whole.

    Returns:
        τ_b in [−1, 1]: pairs ordered alike minus pairs ordered otherwise, divided by
        the geometric mean of the numbers of pairs that each of the two does not tie.
        NaN if one of the two ties all.

    Raises:
        TypeError: if a leaf is not a real floating-point array.
        ValueError: if the two are different trees, if no leaf is prunable, or at a
            NaN or an infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> a, b = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 2.0, 4.0, 3.0])
        >>> round(gf.scores.kendall(a, b), 4)  # five pairs of six alike, one otherwise
        0.6667
    """
    return _correlation("kendalltau", *_flatten_pair(a, b, prunable))


def top_overlap(
    a: Scores, b: Scores, *, sparsity: float, prunable: Prunable | None = None
) -> float:
    """Measures how many of the weights that one score would keep the other keeps too.

    Rank correlations count the whole order, most of which a pruning never looks at;
    this counts what is kept. Scores of no relation overlap by about 1 − sparsity.

    Args:
        a: scores: a tree of real floating-point arrays, or one array.
        b: other scores of the same tree.
        sparsity: the fraction of the weights that is removed, in [0, 1).
        prunable: `prunable(path, leaf) -> bool` chooses what counts. By default
            kernels and embeddings, as everywhere; scores of units, whose arrays all
            have one dimension, count whole.

    Returns:
        |A ∩ B| / k in [0, 1], where A and B are the k = n − round(sparsity · n)
        highest of n, as `gf.global_masks` keeps them: of equal scores the earlier leaf,
        then the lower index. Two constant scores so agree wholly, 1.0.

    Raises:
        TypeError: if a leaf is not a real floating-point array, or the sparsity is
            traced.
        ValueError: if the two are different trees, if no leaf is prunable, at a NaN or
            an infinity, or if the sparsity keeps no weight or is outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> a, b = jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([4.0, 1.0, 3.0, 2.0])
        >>> gf.scores.top_overlap(a, b, sparsity=0.5)
        0.5
    """
    first, second = _flatten_pair(a, b, prunable)
    keep = first.size - round(checked_fraction(sparsity, "sparsity") * first.size)
    if keep == 0:
        raise ValueError(
            f"sparsity={sparsity} keeps none of {first.size} weights, and nothing "
            "overlaps with nothing: ask for a sparsity that keeps a weight at least."
        )
    kept = [np.argsort(-vector, kind="stable")[:keep] for vector in (first, second)]
    return np.intersect1d(*kept, assume_unique=True).size / keep


def agreement(
    scores: Mapping[str, Scores], how: Comparison = spearman, **options: Any
) -> Agreement:
    """Compares each of several scores, of measures, batches or epochs, with each other.

    Args:
        scores: trees of real floating-point arrays by name, all the same tree.
        how: `how(a, b, **options) -> float`, symmetric: `gf.scores.spearman`,
            `gf.scores.kendall`, `gf.scores.top_overlap`.
        **options: for `how`: `sparsity=0.9`, `prunable=...`.

    Returns:
        The names and a symmetric matrix. The diagonal is computed too: NaN where a
        score has no order.

    Raises:
        TypeError: if scores are not trees by name, if a leaf is not a real
            floating-point array, or `how` is no function, has no such option or
            returns no number.
        ValueError: if there are no scores or they are different trees, if no leaf is
            prunable, or at a NaN or an infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> up = jnp.array([1.0, 2.0, 3.0])
        >>> gf.scores.agreement({"up": up, "down": -up}).values.tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores is a {type(scores).__name__}: pass the trees by name, "
            '{"grasp": scores, "taylor": others}.'
        )
    if not scores:
        raise ValueError("scores names no tree: compare one at least.")
    if not callable(how):
        raise TypeError(
            f"how is a {type(how).__name__}: pass a function of two scores, such as "
            "gf.scores.spearman."
        )
    names, trees = tuple(scores), tuple(scores.values())
    values = np.empty((len(names), len(names)))
    for i, a in enumerate(trees):
        for j, b in enumerate(trees[: i + 1]):
            value = how(a, b, **options)
            if not isinstance(value, (int, float, np.number, jax.Array)) or np.ndim(
                value
            ):
                raise TypeError(
                    f"how(a, b) returned a {type(value).__name__}: return one number, "
                    "a float."
                )
            values[i, j] = values[j, i] = value
    return Agreement(names, values)


def _correlation(
    name: Literal["spearmanr", "kendalltau"], a: np.ndarray, b: np.ndarray
) -> float:
    """Returns the coefficient that `scipy.stats.<name>` computes, or NaN."""
    # SciPy takes five times as long to import as this library.
    from scipy import stats

    # A constant vector has no order. SciPy returns NaN too, but it warns.
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(getattr(stats, name)(a, b).statistic)


def _flatten_pair(
    a: Scores, b: Scores, prunable: Prunable | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores that count, as two vectors.

    Raises:
        TypeError: if a leaf is not a real floating-point array.
        ValueError: if the trees differ, nothing counts, or at a NaN or an infinity.
    """
    check_floating(a, "scores a")
    check_floating(b, "scores b")
    a, b = fetch(a, "scores a"), fetch(b, "scores b")
    leaves_b = aligned_leaves(b, a, what="scores b", like_what="scores a")
    paths_and_leaves = named_leaves(a)
    if prunable is None:
        are_units = all(jnp.ndim(leaf) < 2 for _, leaf in paths_and_leaves)
        prunable = (lambda path, leaf: True) if are_units else default_prunable
    pairs = []
    flags = prunable_flags(a, prunable)
    columns = zip(paths_and_leaves, leaves_b, flags, strict=True)
    for (path, leaf_a), leaf_b, flag in columns:
        if flag:
            check_finite(path, leaf_a)
            check_finite(path, leaf_b)
            pairs.append([np.ravel(widen(leaf)) for leaf in (leaf_a, leaf_b)])
    first, second = (np.concatenate(column) for column in zip(*pairs, strict=True))
    if first.size == 0:
        raise ValueError(
            "scores a and scores b have no weight that counts: the prunable leaves "
            "are empty. Choose others by prunable=lambda path, leaf: ..."
        )
    return first, second
