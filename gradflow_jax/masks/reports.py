"""Reports what masks keep, layer by layer, of prunable and of all weights."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.counts import count_by_position, count_violations
from gradflow_jax.masks.keywords import explain_keywords
from gradflow_jax.masks.layer_reports import LayerReport, Report
from gradflow_jax.masks.selection.counting import count_true
from gradflow_jax.programs.parameters import params_of
from gradflow_jax.trees import (
    Masks,
    Params,
    Patterns,
    Prunable,
    Scores,
    aligned_leaves,
    check_floating,
    check_masks,
    default_prunable,
    is_traced,
    match_paths,
    named_leaves,
    prunable_flags,
)
from gradflow_jax.trees.prunable import ask

# So many leaves are named below a table, and the others are counted.
_NAMED = 3


def sparsity(
    masks: Masks, *, prunable: Prunable = default_prunable, ignore: Patterns = ()
) -> float:
    """Measures which fraction of the prunable weights masks remove.

    It is the `sparsity` of `gf.report`, which says of what it is a fraction.

    Args:
        masks: a tree of bool, True keeps.
        prunable: `prunable(path, leaf) -> bool`, as it was given when the masks were
            made. A leaf of which something is removed counts as prunable in any case.
        ignore: a path or shell pattern, or several, as when the masks were made.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: if a leaf is not bool, or traced by `jax.jit`.
        ValueError: if there is no leaf or none is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> masks = {"kernel": jnp.array([[True, False]]), "bias": jnp.array([True])}
        >>> gf.sparsity(masks)
        0.5
    """
    return report(masks, prunable=prunable, ignore=ignore).sparsity


@explain_keywords
def report(
    masks: Masks,
    params: Params | None = None,
    *,
    scores: Scores | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Report:
    """Reports what masks keep, layer by layer and in total.

    With the parameters it says whether the masks hold, as after training; with the
    scores, what equal ones left to positions.

    Args:
        masks: a tree of bool, True keeps.
        params: parameters, or an `nnx.Module`, whose pruned weights that are not 0.0
            are counted as `violations`.
        scores: what the masks were made of; kept weights that have the score of the
            highest removed one, of their leaf or of all, are counted as `by_position`.
        prunable: `prunable(path, leaf) -> bool`, as it was given when the masks were
            made. A leaf of which something is removed counts as prunable in any case.
        ignore: a path or shell pattern, or several, as when the masks were made.

    Returns:
        A `Report`: `print` it, leave it as the last line of a notebook cell, or read
        `.sparsity` (of prunable weights), `.total_sparsity` (of all), `.violations`,
        `.by_position` and `.layers`. A leaf that keeps everything is "not pruned"; the
        line below the table says by which rule it counts.

    Raises:
        TypeError: if a leaf is not bool, or traced by `jax.jit`.
        ValueError: if there is no leaf or none is prunable, or if params or scores are
            another tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> masks = {"kernel": jnp.array([[True, False]]), "bias": jnp.array([True])}
        >>> print(gf.report(masks))
        leaf              shape  kept  of    sparsity
        ---------------------------------------------
        bias                  1     1   1  not pruned
        kernel              1×2     1   2      50.00%
        ---------------------------------------------
        prunable weights            1   2      50.00%
        all weights                 2   3      33.33%
        prunable: kernels and embeddings, the default
        >>> params = {"kernel": jnp.array([[1.0, -0.3]]), "bias": jnp.array([0.0])}
        >>> gf.report(masks, params).violations
        1
    """
    check_masks(masks)
    leaves = jax.tree.leaves(masks)
    paths = [path for path, _ in named_leaves(masks)]
    _check_known(leaves, "masks")
    shapes = [tuple(jnp.shape(mask)) for mask in leaves]
    kept = list(map(count_true, leaves))
    sizes = [math.prod(shape) for shape in shapes]
    # Two leaves may have one name, so that each is told by its place.
    is_pruned = [k < n for k, n in zip(kept, sizes, strict=True)]
    if isinstance(ignore, Iterator):
        # They are matched, and then named.
        ignore = list(ignore)
    is_ignored = match_paths(ignore, paths)
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    by_rule = [
        ask(prunable, path, leaf) and not ignored
        for path, leaf, ignored in zip(paths, leaves, is_ignored, strict=True)
    ]
    counts = iter([a or b for a, b in zip(is_pruned, by_rule, strict=True)])
    flags = prunable_flags(masks, lambda path, leaf: next(counts))
    violations: Sequence[int | None] = [None] * len(paths)
    if params is not None:
        params = params_of(params)
        check_floating(params, "params")
        weights = aligned_leaves(params, masks, what="params", like_what="masks")
        _check_known(weights, "params")
        violations = count_violations(leaves, weights)
    by_position: Sequence[int | None] = [None] * len(paths)
    if scores is not None:
        check_floating(scores, "scores")
        values = aligned_leaves(scores, masks, what="scores", like_what="masks")
        _check_known(values, "scores")
        ranked = iter(
            count_by_position(
                [mask for mask, flag in zip(leaves, flags, strict=True) if flag],
                [leaf for leaf, flag in zip(values, flags, strict=True) if flag],
            )
        )
        by_position = [next(ranked) if flag else 0 for flag in flags]
    columns = paths, shapes, kept, sizes, flags, violations, by_position
    layers = tuple(LayerReport(*row) for row in zip(*columns, strict=True))
    whole = [
        path
        for path, flag, pruned in zip(paths, by_rule, is_pruned, strict=True)
        if flag and not pruned
    ]
    beyond = [
        path
        for path, flag, pruned in zip(paths, by_rule, is_pruned, strict=True)
        if pruned and not flag
    ]
    return Report(layers, _rule_in_words(prunable, patterns, whole, beyond))


def _check_known(leaves: Sequence[Any], what: str) -> None:
    """Raises TypeError where values are not known."""
    if any(map(is_traced, leaves)):
        raise TypeError(
            f"{what} are traced by jax.jit or a like transformation, and a report "
            "needs their values: return them and report outside."
        )


def _rule_in_words(
    prunable: Prunable,
    patterns: Sequence[str],
    whole: Sequence[str],
    beyond: Sequence[str],
) -> str:
    """Returns what counts as prunable, and where that is another thing than pruned.

    Args:
        prunable: the rule.
        patterns: of what it leaves out.
        whole: leaves that it counts and masks keep whole.
        beyond: leaves that masks prune and it does not count.
    """
    words = "kernels and embeddings, the default"
    if prunable is not default_prunable:
        name = getattr(prunable, "__name__", type(prunable).__name__)
        words = f"what prunable={name} says"
    if patterns:
        words += f", but for {', '.join(patterns)}"
    if beyond:
        words += f"; and what is pruned beside, {_some(beyond)}"
    if whole:
        words += f"; of these are kept whole: {_some(whole)}"
    return words


def _some(paths: Sequence[str]) -> str:
    """Returns the first paths, and how many more there are."""
    more = len(paths) - _NAMED
    listed = ", ".join(path or "(the array)" for path in paths[:_NAMED])
    return f"{listed} and {more} more" if more > 0 else listed
