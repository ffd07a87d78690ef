"""Checks trees and the numbers that come with them; each error names the remedy.

Two trees are the same tree when their leaves have the same paths and shapes: Flax NNX
hands the same parameters once as `State[Param]` and once as `State[array]`, which
differ as pytree structures.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees.dtypes import (
    describe,
    has_values,
    is_numeric,
    is_real_floating,
    is_traced,
)
from gradflow_jax.trees.flax_objects import is_nnx_state
from gradflow_jax.trees.mistaken import check_is_tree
from gradflow_jax.trees.names import label, named_leaves
from gradflow_jax.trees.types import ArrayTree, Masks


def check_floating(tree: ArrayTree, what: str, *, or_shapes: bool = False) -> None:
    """Checks that a tree has leaves and that all of them are real floating arrays.

    Args:
        tree: any pytree.
        what: what the caller calls it: "params", "scores".
        or_shapes: whether leaves may be shapes without values, which some functions
            need not look at.

    Raises:
        TypeError: at an `nnx.Module`, an integer, bool, complex or non-array leaf.
        ValueError: if there is no leaf.

    Example:
        >>> check_floating({"steps": jnp.array([3])}, "scores")
        Traceback (most recent call last):
        TypeError: scores leaf 'steps' is int32[1]; scores are real floating-point ...
    """
    check_is_tree(tree, what)
    paths_and_leaves = named_leaves(tree)
    if not paths_and_leaves:
        raise ValueError(
            f"{what} has no leaves: {tree!r}. Pass the pytree of parameter arrays, "
            "for example variables['params'] or nnx.state(model, nnx.Param)."
        )
    for path, leaf in paths_and_leaves:
        if is_real_floating(leaf):
            if not or_shapes:
                check_has_values(path, leaf, what)
            continue
        if is_numeric(leaf) and jnp.issubdtype(
            jnp.result_type(leaf), jnp.complexfloating
        ):
            remedy = (
                "importance is defined for real weights: hold the real and the "
                "imaginary part as two leaves and combine them inside the loss."
            )
        elif what != "params" and is_numeric(leaf):
            remedy = (
                f"{what} are real floating-point numbers: convert the leaf by "
                "leaf.astype(jnp.float32)."
            )
        elif is_nnx_state(tree):
            remedy = (
                "only floating-point leaves have gradients: pass "
                "nnx.state(model, nnx.Param), or the model itself, which leaves out "
                "counts of random numbers and statistics."
            )
        elif hasattr(leaf, "dtype") and not is_numeric(leaf):
            remedy = (
                f"{what} are real floating-point numbers in arrays of JAX or NumPy: "
                "convert the leaf, jnp.asarray(leaf, jnp.float32), or keep it out."
            )
        else:
            remedy = (
                "only floating-point leaves have gradients: keep the others out of "
                "it and pass them as a further argument of the loss (for Equinox, "
                "eqx.partition(model, eqx.is_inexact_array))."
            )
        raise TypeError(f"{what} {label(path)} is {describe(leaf)}; {remedy}")


def check_has_values(path: str, leaf: Any, what: str) -> None:
    """Checks that a leaf is not the shape of an array, as `jax.eval_shape` makes it.

    Args:
        path: the leaf's name.
        leaf: what `is_numeric` is true of.
        what: what an error calls the tree that holds it.

    Raises:
        TypeError: at a shape.
    """
    if not has_values(leaf):
        raise TypeError(
            f"{what} {label(path)} is {describe(leaf)}, a shape without values "
            f"({type(leaf).__name__}): pass an array of it."
        )


def check_finite(path: str, leaf: chex.Numeric, *, or_never_kept: bool = False) -> None:
    """Checks one leaf of scores, unless it is traced.

    Args:
        path: the leaf's name, for the error.
        leaf: real numbers.
        or_never_kept: whether −inf, the score of what is never kept, passes too.

    Raises:
        ValueError: at a NaN or an infinity.

    Example:
        >>> check_finite("conv/kernel", jnp.array([1.0, jnp.nan]))
        Traceback (most recent call last):
        ValueError: scores leaf 'conv/kernel' has 1 of 2 values that are not finite ...
    """
    if is_traced(leaf):
        return
    # An array whose values are known is checked now, even where jax.jit traces the
    # code around it.
    with jax.ensure_compile_time_eval():
        # Sums alone are fetched: where other processes hold parts of the leaf, none of
        # its values can be.
        kinds = {"nan": jnp.isnan, "inf": jnp.isposinf, "-inf": jnp.isneginf}
        if or_never_kept:
            del kinds["-inf"]
        counts = {kind: int(jnp.sum(test(leaf))) for kind, test in kinds.items()}
    if not any(counts.values()):
        return
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    raise ValueError(
        f"scores {label(path)} has {sum(counts.values())} of {jnp.size(leaf)} values "
        f"that are not finite ({summary}): weights cannot be ranked by them. "
        "Look for NaN in the params or an overflow in the loss, or exclude the leaf by "
        "ignore= or prunable=."
    )


def aligned_leaves(
    tree: ArrayTree, like: ArrayTree, *, what: str, like_what: str
) -> list[Any]:
    """Returns the leaves of `tree`, checked to be the same tree as `like`.

    Args:
        tree: any pytree of arrays.
        like: another, whose containers may differ.
        what: what an error calls the tree: "scores".
        like_what: what it calls the other: "params".

    Returns:
        The leaves, in the order of `jax.tree.leaves(like)`.

    Raises:
        ValueError: if a path or a shape differs; the message names the first.

    Example:
        >>> tree, params = {"bias": 1.0}, {"bias": 2.0, "kernel": 3.0}
        >>> aligned_leaves(tree, params, what="scores", like_what="params")
        Traceback (most recent call last):
        ValueError: scores and params are different trees: scores lacks the leaf ...
    """
    actual, expected = named_leaves(tree), named_leaves(like)
    paths, expected_paths = [p for p, _ in actual], [p for p, _ in expected]
    if paths != expected_paths:
        missing = [path for path in expected_paths if path not in paths]
        extra = [path for path in paths if path not in expected_paths]
        differences = [f"lacks the leaf {path!r}" for path in missing[:1]]
        differences += [
            f"has the leaf {path!r}, which {like_what} lacks" for path in extra[:1]
        ]
        difference = f"{what} {' and '.join(differences)}"
        if not differences:
            difference = "the leaves stand in another order"
        raise ValueError(
            f"{what} and {like_what} are different trees: {difference}. "
            f"Make {what} from this very tree of {like_what}."
        )
    for (path, leaf), (_, like_leaf) in zip(actual, expected, strict=True):
        if np.shape(leaf) != np.shape(like_leaf):
            raise ValueError(
                f"{what} {label(path)} has shape {np.shape(leaf)}, but {like_what} "
                f"has {np.shape(like_leaf)} there. Make {what} from this very tree of "
                f"{like_what}."
            )
    return [leaf for _, leaf in actual]


def check_masks(masks: Masks, *, what: str = "masks") -> None:
    """Checks that every leaf of a mask tree is boolean and that there is one.

    Args:
        masks: a tree of bool arrays, True keeps.
        what: what an error calls it.

    Raises:
        TypeError: at the first leaf that is not a bool array.
        ValueError: if there is no leaf.

    Example:
        >>> check_masks({"bias": jnp.array([1, 0])})
        Traceback (most recent call last):
        TypeError: masks leaf 'bias' is int32[2], not bool (True keeps a weight)...
    """
    check_is_tree(masks, what)
    paths_and_leaves = named_leaves(masks)
    if not paths_and_leaves:
        raise ValueError(
            f"{what} has no leaves: {masks!r}. Pass the masks of the parameters, as "
            "gf.global_masks returns them."
        )
    for path, leaf in paths_and_leaves:
        if not (is_numeric(leaf) and jnp.result_type(leaf) == jnp.bool_):
            raise TypeError(
                f"{what} {label(path)} is {describe(leaf)}, not bool (True keeps a "
                "weight). Masks come from gf.global_masks and its like, or from a "
                "comparison such as scores > threshold."
            )
        check_has_values(path, leaf, what)


def mask_leaves(
    masks: Masks,
    like: ArrayTree,
    *,
    what: str = "masks",
    like_what: str = "params",
) -> list[Any]:
    """Returns the leaves of a mask tree, checked to be bool and to fit `like`.

    Args:
        masks: a tree of bool arrays, True keeps.
        like: the tree that they are to be of, such as the params.
        what: what an error calls the masks.
        like_what: what it calls the tree that they are to be of.

    Returns:
        The leaves, in the order of `jax.tree.leaves(like)`.

    Raises:
        TypeError: at the first leaf that is not a bool array.
        ValueError: if there is no leaf, or a path or a shape differs.

    Example:
        >>> masks, params = {"bias": jnp.array([True])}, {"bias": jnp.ones(1)}
        >>> mask_leaves(masks, params)[0].tolist()
        [True]
    """
    check_masks(masks, what=what)
    return aligned_leaves(masks, like, what=what, like_what=like_what)


def check_numbers(
    tree: ArrayTree, what: str, *, objects: bool = False, or_shapes: bool = True
) -> None:
    """Checks that every leaf of a tree is a number, a key or an array of these.

    Args:
        tree: any pytree.
        what: what an error calls it.
        objects: whether leaves without a dtype may be anything.
        or_shapes: whether leaves may be shapes without values.

    Raises:
        TypeError: naming the first that is not.
    """
    for path, leaf in named_leaves(tree):
        if objects and not hasattr(leaf, "dtype"):
            continue
        if is_numeric(leaf):
            if not or_shapes:
                check_has_values(path, leaf, what)
            continue
        raise TypeError(
            f"{what} {label(path)} is {describe(leaf)}, no array of numbers: keep what "
            "is not computed with out of the tree."
        )
