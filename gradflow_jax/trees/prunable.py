"""Decides which leaves are pruned: by one default, or by a function of the caller."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from gradflow_jax.trees.dtypes import describe
from gradflow_jax.trees.names import named_leaves
from gradflow_jax.trees.types import ArrayTree

Prunable = Callable[[str, jax.Array], bool]
"""Which leaves are pruned: `prunable(path, leaf)`, of the leaf's name and array."""

# Libraries give these names to additive and normalization parameters. Dimensions do
# not tell them from kernels: in stacked layers and attention heads they have two and
# more.
_NOT_PRUNABLE_NAMES = frozenset({"bias", "scale", "gamma", "beta", "offset"})


def default_prunable(path: str, leaf: chex.Array | jax.ShapeDtypeStruct) -> bool:
    """Says whether a leaf is pruned by default: kernels and embeddings are.

    True for leaves of two dimensions or more, but for those named `bias`, `scale`,
    `gamma`, `beta` or `offset`: the biases of attention heads and of stacked layers
    and the parameters of normalization have more than one dimension too.

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


def prunable_flags(tree: ArrayTree, prunable: Prunable) -> list[bool]:
    """Returns, leaf by leaf, whether it is prunable.

    Raises:
        ValueError: if no leaf of the tree is prunable.
    """
    paths_and_leaves = named_leaves(tree)
    flags = [bool(prunable(path, leaf)) for path, leaf in paths_and_leaves]
    if not paths_and_leaves:
        raise ValueError(f"no leaf is prunable: the tree {tree!r} has no leaves.")
    if not any(flags):
        shown = paths_and_leaves[:5]
        listed = ", ".join(f"{path} {describe(leaf)}" for path, leaf in shown)
        omitted = len(paths_and_leaves) - len(shown)
        more = f" and {omitted} more" if omitted else ""
        raise ValueError(
            f"no leaf is prunable among: {listed}{more}. By default kernels and "
            "embeddings (two dimensions or more) are; pass "
            "prunable=lambda path, leaf: ... to choose others."
        )
    return flags
