"""Decides which leaves are pruned: by one default, a function, or patterns of paths."""

import difflib
import fnmatch
from collections.abc import Callable, Collection, Sequence
from typing import Any

import chex
import jax

from gradflow_jax.trees.dtypes import describe
from gradflow_jax.trees.names import named_leaves
from gradflow_jax.trees.numbers import quote
from gradflow_jax.trees.types import ArrayTree

Prunable = Callable[[str, jax.Array], bool]
"""Which leaves are pruned: `prunable(path, leaf)`, of the leaf's name and array.

It replaces the default rule: `default_prunable(path, leaf) and ...` narrows it.
"""

Patterns = str | Collection[str]
"""One path or shell pattern of paths, `"head/*"`, or several.

A path is that leaf and no other, whatever `*`, `?` or `[` it holds.
"""

# Libraries give these names to additive and normalization parameters. Dimensions do
# not tell them from kernels: in stacked layers and attention heads they have two and
# more.
_NOT_PRUNABLE_NAMES = frozenset({"bias", "scale", "gamma", "beta", "offset"})


def default_prunable(path: str, leaf: chex.Array | jax.ShapeDtypeStruct) -> bool:
    """Says whether a leaf is pruned by default: kernels and embeddings are.

    True for leaves of two dimensions or more, but for those named `bias`, `scale`,
    `gamma`, `beta` or `offset`: the biases of attention heads and of stacked layers
    and the parameters of normalization have more than one dimension too. Embeddings of
    positions and class tokens are embeddings: `ignore=["*/pos_embedding", "*/cls"]`
    spares them.

    Args:
        path: the leaf's name, `"conv1/kernel"`.
        leaf: an array, or anything with a shape.

    Returns:
        True where the leaf's weights may be removed.

    Raises:
        TypeError: if the path is no text.

    Example:
        >>> import jax.numpy as jnp
        >>> default_prunable("dense/kernel", jnp.ones((3, 4)))
        True
        >>> default_prunable("attention/bias", jnp.ones((3, 4)))
        False
    """
    if not isinstance(path, str):
        raise TypeError(
            f"the path of a leaf is {describe(path)}: pass its name, 'conv1/kernel'."
        )
    # An array of NumPy is not made of a list, whose parts may be of several lengths.
    shape = getattr(leaf, "shape", ())
    return len(shape) >= 2 and path.split("/")[-1] not in _NOT_PRUNABLE_NAMES


def match_paths(
    patterns: Patterns,
    paths: Sequence[str],
    *,
    what: str = "ignore",
    of: str = "no leaf",
) -> list[bool]:
    """Returns, path by path, whether one of the patterns matches it.

    Args:
        patterns: a path, which matches itself alone, or a shell pattern,
            `"*/embedding"`, or several. `*` matches any number of levels.
        paths: names of leaves.
        what: what an error calls a pattern.
        of: what an error says that it does not match.

    Returns:
        A bool for each path.

    Raises:
        TypeError: if a pattern is no string.
        ValueError: if a pattern matches no path; the message lists those near it.

    Example:
        >>> match_paths("head/*", ["conv/kernel", "head/kernel", "head/bias"])
        [False, True, True]
    """
    flags = [False] * len(paths)
    try:
        several = [patterns] if isinstance(patterns, str) else list(patterns)
    except TypeError:
        raise TypeError(
            f"{what} is a {type(patterns).__name__}: pass a path or a pattern of "
            "paths such as '*/embedding', or a list of them."
        ) from None
    for pattern in several:
        if not isinstance(pattern, str):
            raise TypeError(
                f"{what} is {quote(pattern)}, not a path or a pattern of paths such as "
                "'*/embedding'."
            )
        # Names of lists hold brackets, which shell patterns read as sets of letters.
        matches = [path == pattern for path in paths]
        if not any(matches):
            matches = [fnmatch.fnmatchcase(path, pattern) for path in paths]
        if not any(matches):
            hint = _hint(pattern, paths)
            raise ValueError(f"{what} {pattern!r} matches {of}; {hint}.")
        flags = [flag or match for flag, match in zip(flags, matches, strict=True)]
    return flags


def _hint(pattern: str, paths: Sequence[str]) -> str:
    """Returns what an error says of the paths that a pattern may have meant."""
    folder = pattern.rstrip("/") + "/"
    if any(path.startswith(folder) for path in paths):
        return f"{folder + '*'!r} matches all leaves under it"
    near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.5)
    listed = ", ".join(near or paths[:8])
    more = f" and {len(paths) - 8} more" if not near and len(paths) > 8 else ""
    return f"{'near it' if near else 'there'} are {listed}{more}"


def prunable_flags(
    tree: ArrayTree, prunable: Prunable, ignore: Patterns = ()
) -> list[bool]:
    """Returns, leaf by leaf, whether it is prunable and not ignored.

    Args:
        tree: any pytree of arrays.
        prunable: `prunable(path, leaf) -> bool`.
        ignore: paths, or shell patterns of paths, of leaves that are left out.

    Returns:
        A bool for each leaf, in the order of `jax.tree.leaves`.

    Raises:
        TypeError: if a pattern is no string, or `prunable` is no function or returns
            neither True nor False.
        ValueError: if no leaf of the tree is prunable, or a pattern matches none.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}
        >>> prunable_flags(params, default_prunable)
        [False, True]
    """
    paths_and_leaves = named_leaves(tree)
    if not paths_and_leaves:
        raise ValueError(f"no leaf is prunable: the tree {tree!r} has no leaves.")
    ignored = match_paths(ignore, [path for path, _ in paths_and_leaves])
    flags = [
        ask(prunable, path, leaf) and not is_ignored
        for (path, leaf), is_ignored in zip(paths_and_leaves, ignored, strict=True)
    ]
    if not any(flags):
        shown = paths_and_leaves[:5]
        listed = ", ".join(f"{path} {describe(leaf)}" for path, leaf in shown)
        omitted = len(paths_and_leaves) - len(shown)
        more = f" and {omitted} more" if omitted else ""
        raise ValueError(
            f"no leaf is prunable among: {listed}{more}. By default kernels and "
            "embeddings (two dimensions or more) are; pass "
            "prunable=lambda path, leaf: ... to choose others"
            f"{', or ignore= fewer' if any(ignored) else ''}."
        )
    return flags


def ask(prunable: Prunable, path: str, leaf: Any) -> bool:
    """Returns what a rule says of a leaf, as a bool.

    Args:
        prunable: `prunable(path, leaf) -> bool`.
        path: the leaf's name.
        leaf: an array, or anything with a shape.

    Raises:
        TypeError: if `prunable` is no function or returns neither True nor False.
    """
    if not callable(prunable):
        raise TypeError(
            f"prunable is a {type(prunable).__name__}: pass a function of a leaf's "
            "path and array, lambda path, leaf: ..., that says whether it is pruned."
        )
    answer = prunable(path, leaf)
    try:
        return bool(answer)
    except (TypeError, ValueError):
        # Of an array, traced or of several numbers, Python cannot tell.
        raise TypeError(
            f"prunable({path!r}, leaf) returned a {type(answer).__name__}: return True "
            "or False, known from the path and the leaf's shape."
        ) from None
