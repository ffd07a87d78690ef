"""Which leaves sparsities by path or pattern are of."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradflow_jax.trees import Prunable, checked_fraction, match_paths
from gradflow_jax.trees.numbers import quote
from gradflow_jax.trees.prunable import ask


def check_by_path(by_path: Mapping[str, float], instead: str) -> None:
    """Checks that sparsities by path are a mapping.

    Raises:
        TypeError: if they are something else; the message names what takes one number.
    """
    if not isinstance(by_path, Mapping):
        raise TypeError(
            f"by_path is {quote(by_path)}, not sparsities by path or pattern such as "
            f"{{'*/kernel': 0.9}}; one for all leaves is {instead}."
        )


def first_matches(
    paths_and_leaves: Sequence[tuple[str, Any]],
    by_path: Mapping[str, float],
    prunable: Prunable,
) -> list[str | None]:
    """Returns for each leaf the first of the patterns that takes it, or None.

    A pattern takes the prunable leaves that it matches. A path takes its leaf, so that
    a bias is pruned where it is meant, and not where "layer/*" says layer.

    Raises:
        TypeError: if a pattern is no string, or a sparsity is traced or is no number.
        ValueError: if a sparsity is outside [0, 1] or a pattern matches no prunable
            leaf.
    """
    paths = [path for path, _ in paths_and_leaves]
    may_go = [ask(prunable, path, leaf) for path, leaf in paths_and_leaves]
    matches: list[str | None] = [None] * len(paths)
    for pattern, quota in by_path.items():
        checked_fraction(quota, f"the quota {pattern!r}")
        flags = match_paths(pattern, paths, what="the quota")
        if pattern not in paths:
            matched = [path for path, flag in zip(paths, flags, strict=True) if flag]
            flags = [flag and may for flag, may in zip(flags, may_go, strict=True)]
            if not any(flags):
                raise ValueError(
                    f"the quota {pattern!r} matches no prunable leaf, only "
                    f"{', '.join(matched[:3])}: name a leaf by its full path, or "
                    "choose what is prunable by prunable=lambda path, leaf: ..."
                )
        matches = [
            pattern if first is None and flag else first
            for first, flag in zip(matches, flags, strict=True)
        ]
    return matches
