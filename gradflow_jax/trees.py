"""Parameter pytrees: the names of their leaves, which are prunable, and the checks.

A leaf is named by its path, `"conv1/kernel"`, in dicts, lists, NamedTuples,
dataclasses, Flax and Equinox modules alike. Two trees are the same tree when their
leaves have the same paths and shapes: Flax NNX hands the same parameters once as
`State[Param]` and once as `State[array]`, which differ as pytree structures.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.tree_util import GetAttrKey

PyTree = Any
Prunable = Callable[[str, Any], bool]

# What libraries call additive and normalisation parameters. By name, because stacked
# layers and attention heads give them two dimensions and more.
_NOT_PRUNABLE_NAMES = frozenset({"bias", "scale", "gamma", "beta", "offset"})


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns `(path, leaf)` for each leaf, in the order of `jax.tree.leaves`.

    The `value` with which Flax NNX wraps every variable is left out of paths. A field
    of that name that has neighbours is another thing and stays.

    Example:
        >>> named_leaves({"conv": {"kernel": 1.0, "bias": 2.0}})
        [('conv/bias', 2.0), ('conv/kernel', 1.0)]
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    below = Counter(
        _joined(path[:depth]) for path, _ in leaves for depth in range(len(path))
    )
    named = []
    for path, leaf in leaves:
        wrapped = len(path) > 1 and path[-1] == GetAttrKey("value")
        if wrapped and below[_joined(path[:-1])] == 1:
            path = path[:-1]
        named.append((_joined(path), leaf))
    return named


def _joined(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def map_named(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Maps `fn(path, leaf, *leaves_of_rest)` over a tree."""
    paths = jax.tree.structure(tree).unflatten(path for path, _ in named_leaves(tree))
    return jax.tree.map(fn, paths, tree, *rest)


def label(path: str) -> str:
    """Returns what an error calls a leaf: by its path, if it has one."""
    return f"leaf {path!r}" if path else "(the array itself)"


def default_prunable(path: str, leaf: Any) -> bool:
    """Says whether a leaf is pruned by default: kernels and embeddings are.

    True for leaves of two dimensions or more, but for those named `bias`, `scale`,
    `gamma`, `beta` or `offset`: the biases of attention heads and of stacked layers
    and the parameters of normalisation have more than one dimension too.

    Args:
        path: the leaf's name, `"conv1/kernel"`.
        leaf: an array, or anything with a shape.

    Returns:
        True where the leaf's weights may be removed.

    Example:
        >>> default_prunable("dense/kernel", jnp.ones((3, 4)))
        True
        >>> default_prunable("attention/bias", jnp.ones((3, 4)))
        False
    """
    return len(jnp.shape(leaf)) >= 2 and path.split("/")[-1] not in _NOT_PRUNABLE_NAMES


def prunable_flags(tree: PyTree, prunable: Prunable) -> list[bool]:
    """Returns, leaf by leaf, whether it is prunable.

    Raises:
        ValueError: if no leaf of the tree is prunable.
    """
    named = named_leaves(tree)
    flags = [bool(prunable(path, leaf)) for path, leaf in named]
    if not named:
        raise ValueError(f"no leaf is prunable: the tree {tree!r} has no leaves.")
    if not any(flags):
        found = ", ".join(f"{path} {describe(leaf)}" for path, leaf in named[:5])
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        raise ValueError(
            f"no leaf is prunable among: {found}{more}. By default kernels and "
            "embeddings (two dimensions or more) are; pass "
            "prunable=lambda path, leaf: ... to choose others."
        )
    return flags


def describe(leaf: Any) -> str:
    """Returns a leaf's dtype and shape, `float32[3,4]`, or the name of its type."""
    if not _is_numeric(leaf):
        return type(leaf).__name__
    shape = ",".join(str(size) for size in jnp.shape(leaf))
    return f"{jnp.result_type(leaf)}[{shape}]"


def is_real_floating(leaf: Any) -> bool:
    """Says whether a leaf is an array, or a number, of a real floating-point dtype."""
    return _is_numeric(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _is_numeric(leaf: Any) -> bool:
    if isinstance(leaf, (bool, int, float, complex)):
        return True
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def check_floating(tree: PyTree, what: str) -> None:
    """Checks that a tree has leaves and that all of them are real floating arrays.

    Args:
        tree: any pytree.
        what: what the caller calls it: "params", "scores".

    Raises:
        TypeError: at an `nnx.Module`, an integer, bool, complex or non-array leaf.
        ValueError: if there is no leaf.
    """
    _check_not_nnx_module(tree, what)
    named = named_leaves(tree)
    if not named:
        raise ValueError(
            f"{what} has no leaves: {tree!r}. Pass the pytree of parameter arrays, "
            "for example variables['params'] or nnx.state(model, nnx.Param)."
        )
    for path, leaf in named:
        if is_real_floating(leaf):
            continue
        if _is_numeric(leaf) and jnp.issubdtype(
            jnp.result_type(leaf), jnp.complexfloating
        ):
            remedy = (
                "importance is defined for real weights: hold the real and the "
                "imaginary part as two leaves and combine them inside the loss."
            )
        elif what != "params" and _is_numeric(leaf):
            remedy = (
                f"{what} are real floating-point numbers: convert the leaf by "
                "leaf.astype(jnp.float32)."
            )
        else:
            remedy = (
                "only floating-point leaves have gradients: keep the others out of "
                "it and pass them as a further argument of the loss (for Equinox, "
                "eqx.partition(model, eqx.is_inexact_array))."
            )
        raise TypeError(f"{what} {label(path)} is {describe(leaf)}; {remedy}")


def check_finite(path: str, leaf: Any) -> None:
    """Checks one leaf of scores; passes it unseen where it is traced.

    Raises:
        ValueError: at a NaN or an infinity.
    """
    if is_traced(leaf):
        return
    # A constant's check is carried out now even where jax.jit traces around it.
    with jax.ensure_compile_time_eval():
        finite = jnp.isfinite(leaf)
        if jnp.all(finite):
            return
        bad = jnp.size(leaf) - int(jnp.sum(finite))
        # Numbers alone: where other processes hold parts of the leaf no value of it
        # can be fetched.
        kinds = {"nan": jnp.isnan, "inf": jnp.isposinf, "-inf": jnp.isneginf}
        counts = {kind: int(jnp.sum(test(leaf))) for kind, test in kinds.items()}
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    raise ValueError(
        f"scores {label(path)} has {bad} of {jnp.size(leaf)} values that are not "
        f"finite ({found}): weights cannot be ranked by them. Look for NaN in the "
        "params or an overflow in the loss, or exclude the leaf by prunable=."
    )


def _check_not_nnx_module(tree: PyTree, what: str) -> None:
    """Raises TypeError at an `nnx.Module`, which holds more than parameters.

    Flax is not imported for it: whoever holds an `nnx.Module` has imported Flax.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(tree, nnx.Module):
        return
    kind = type(tree).__name__
    others = [
        ("/".join(str(key) for key in path), variable)
        for path, variable in nnx.to_flat_state(nnx.state(tree))
        if not isinstance(variable, nnx.Param)
    ]
    if others:
        path, variable = others[0]
        bad = f"its {label(path)} is a {type(variable).__name__}, not a Param"
    else:
        bad = "its parameters are nnx.Param variables, not a pytree of arrays"
    raise TypeError(
        f"{what} is a whole nnx.Module ({kind}); {bad}. Split it first: "
        "graphdef, params, rest = nnx.split(model, nnx.Param, ...), pass params, and "
        "call nnx.merge(graphdef, params, rest) inside the loss."
    )


def aligned_leaves(
    tree: PyTree, like: PyTree, *, what: str, like_what: str
) -> list[Any]:
    """Returns the leaves of `tree`, checked to be the same tree as `like`.

    Raises:
        ValueError: if a path or a shape differs; the message names the first.
    """
    named, expected = named_leaves(tree), named_leaves(like)
    paths, expected_paths = [p for p, _ in named], [p for p, _ in expected]
    if paths != expected_paths:
        missing = [path for path in expected_paths if path not in paths]
        extra = [path for path in paths if path not in expected_paths]
        if missing:
            difference = f"{what} lacks the leaf {missing[0]!r}"
        elif extra:
            difference = f"{what} has the leaf {extra[0]!r}, which {like_what} lacks"
        else:
            difference = "the leaves stand in another order"
        raise ValueError(
            f"{what} and {like_what} are different trees: {difference}. "
            f"Make {what} from this very tree of {like_what}."
        )
    for (path, leaf), (_, other) in zip(named, expected, strict=True):
        if jnp.shape(leaf) != jnp.shape(other):
            raise ValueError(
                f"{what} {label(path)} has shape {jnp.shape(leaf)}, but {like_what} "
                f"has {jnp.shape(other)} there. Make {what} from this very tree of "
                f"{like_what}."
            )
    return [leaf for _, leaf in named]


def check_masks(masks: PyTree, *, what: str = "masks") -> None:
    """Checks that every leaf of a mask tree is boolean and that there is one.

    Raises:
        TypeError: at the first leaf that is not a bool array.
        ValueError: if there is no leaf.
    """
    _check_not_nnx_module(masks, what)
    named = named_leaves(masks)
    if not named:
        raise ValueError(
            f"{what} has no leaves: {masks!r}. Pass the masks of the parameters, as "
            "gf.global_masks returns them."
        )
    for path, leaf in named:
        if not (_is_numeric(leaf) and jnp.result_type(leaf) == jnp.bool_):
            raise TypeError(
                f"{what} {label(path)} is {describe(leaf)}, not bool (True keeps a "
                "weight). Masks come from gf.global_masks and its like, or from a "
                "comparison such as scores > threshold."
            )


def mask_leaves(
    masks: PyTree, like: PyTree, *, what: str = "masks", like_what: str = "params"
) -> list[Any]:
    """Returns the leaves of a mask tree, checked to be bool and to fit `like`."""
    check_masks(masks, what=what)
    return aligned_leaves(masks, like, what=what, like_what=like_what)


def is_traced(value: Any) -> bool:
    """Says whether a value is known only when a transformed function runs."""
    return isinstance(value, jax.core.Tracer)


def widen(leaf: Any) -> jax.Array:
    """Returns a leaf in float32, or in its own dtype where that is wider."""
    dtype = jnp.dtype(jnp.result_type(leaf))
    # An explicit dtype, so that a Python number does not stay weakly typed.
    return jnp.asarray(leaf, jnp.float32 if dtype.itemsize < 4 else dtype)
