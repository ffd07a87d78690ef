"""Says what a tree of arrays holds: parameters, scores, masks, numbers of weights.

A module of NNX or Equinox is a pytree too, but neither chex nor optax says so in types.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Union

import chex

if TYPE_CHECKING:
    import optax

# A leaf of chex's trees is an array and one of optax's may be a Python number. What
# `optax.apply_updates` returns is a tree of the second kind, and is handed on to us.
ArrayTree = Union[chex.ArrayTree, "optax.Params"]
"""A tree of arrays: gradients, variables, the state of an optimizer."""

AnyTree = TypeVar("AnyTree", bound=ArrayTree)
"""A tree that comes back with other numbers in it, a dict as a dict."""

Params = ArrayTree
"""The parameters of a model, θ: real floating-point arrays, nested in any way."""

Scores = chex.ArrayTree
"""How much each weight matters: the tree and shapes of params; higher is kept."""

Masks = chex.ArrayTree
"""Which weights stay: the tree and shapes of params, `bool`; True keeps."""

Allocation = int | chex.Array | Iterable["Allocation"] | Mapping[Any, "Allocation"]
"""How many weights each leaf keeps: the tree of params, of whole numbers."""

Roles = tuple[str, ...] | Iterable["Roles"] | Mapping[Any, "Roles"]
"""What each axis of a leaf is: the tree of params, of tuples with a word for each axis,
`("in", "head", "out")`, as `gf.structured.axis_roles` reads them from a model."""

Axes = int | Iterable[int] | Mapping[str, int | Iterable[int]]
"""An axis of every leaf, several, or those of leaves by path or shell pattern."""
