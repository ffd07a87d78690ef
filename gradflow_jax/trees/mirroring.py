"""Which leaf of a model each leaf of another tree mirrors.

An optimizer's state, masks, averages and initial weights hold copies of the tree of
parameters. Such a copy is a subtree whose leaves have the keys of the model's. That
says what mirrors what, and not the name at the end of a path: parameters may be called
`mu` or `trace`, as the fields of a state are. So no tree needs a handler of its own.
`optax.tree.map_params` does without keys and instead calls `init` with a placeholder,
in which there is nothing to be checked or to be laid out: `gf.apply_mask` and
`optax.lbfgs` fail on it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from gradflow_jax.trees.dtypes import is_numeric
from gradflow_jax.trees.names import keyed_leaves, named_leaves, routed_leaves
from gradflow_jax.trees.types import ArrayTree

MASKS_PER_BYTE = 8


class Mirror(NamedTuple):
    """A leaf of a tree, beside the leaf of a model that it mirrors.

    Attributes:
        path: of the leaf of the tree.
        leaf: of the tree.
        of: the path of the model's leaf, or None where there is none.
        kind: "same" where they have one shape; "stacked" where copies of the model's
            leaf lie along leading axes, as the last steps of L-BFGS do; "packed" where
            it is a mask of that leaf as bits; None where the shapes have nothing to
            do with each other, as of factored moments, and where `of` is None.
    """

    path: str
    leaf: Any
    of: str | None
    kind: Literal["same", "stacked", "packed"] | None


class _View(NamedTuple):
    """The model's leaves as a copy of the model, or of a part of it, names them.

    Attributes:
        path_of: the path of each leaf by its keys in the copy.
        starts: how many leaves there are below each beginning of such keys.
        is_typed: whether the keys are JAX's, which tell the field of a NamedTuple from
            the entry of a dict, or text.
    """

    path_of: dict[tuple, str]
    starts: Counter
    is_typed: bool


class _Entry(NamedTuple):
    """A leaf of a tree, or a `MaskedNode`, with its keys as JAX's and as text."""

    leaf: Any
    typed_keys: tuple
    text_keys: tuple

    def keys(self, view: _View) -> tuple:
        return self.typed_keys if view.is_typed else self.text_keys


class _Copy(NamedTuple):
    """How well a view fits the subtree at a place of a tree.

    The fields stand in the order in which they count where several copies would do.
    What is complete is no coincidence. What is typed has the containers of the model. A
    place with other leaves besides is likelier one above the copies: it holds a count
    and moments, say. Of the others the largest is right, since a part of a copy may
    look like a copy of a part.
    """

    is_complete: bool
    is_typed: bool
    has_nothing_else: bool
    leaf_count: int
    height: int
    shapes_that_fit: int
    rank_of_view: int


def find_mirrors(tree: ArrayTree, of: ArrayTree) -> list[Mirror]:
    """Returns of each leaf of a tree which leaf of a model it mirrors, and how.

    Copies of the model are found by their structure. A part of the model is a copy too:
    optax puts a `MaskedNode` where it leaves something out, and an optimizer of
    `nnx.Param`s knows no other variables. A single integer mirrors none: a count of
    steps has the shape of a scalar parameter. A single number does with all of the
    model only, since rates have names as well.

    Args:
        tree: anything that holds mirrors of the model's leaves.
        of: the model's leaves, or their shapes.
    """
    model_leaves = dict(named_leaves(of))
    views = [*_views(of, is_typed=True), *_views(of, is_typed=False)]
    entries = [
        _Entry(leaf, route, _split(keys))
        for (route, leaf), (keys, _) in zip(
            routed_leaves(tree, is_masked_node),
            keyed_leaves(tree, is_masked_node),
            strict=True,
        )
    ]
    copies = [
        _find_copies(entries, view, -rank, model_leaves)
        for rank, view in enumerate(views)
    ]
    present = [entry for entry in entries if not is_masked_node(entry.leaf)]
    mirrors = []
    for (path, leaf), entry in zip(named_leaves(tree), present, strict=True):
        owner = None
        if not _is_count(leaf):
            owner = _best_owner(entry, views, copies, model_leaves)
        kind = None if owner is None else _kind(leaf, np.shape(model_leaves[owner]))
        mirrors.append(Mirror(path, leaf, owner, kind))
    return mirrors


def is_masked_node(node: Any) -> bool:
    """Says whether a node stands where optax left a leaf or a subtree out."""
    return isinstance(node, optax.MaskedNode)


def is_packed(leaf: Any, shape: tuple[int, ...]) -> bool:
    """Says whether a leaf holds a mask of this shape as bits."""
    return (
        np.shape(leaf) != shape
        and getattr(leaf, "dtype", None) == jnp.uint8
        and bool(shape)
        and np.shape(leaf) == packed_shape(shape)
    )


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a mask's bytes: eight of the last axis are one."""
    return (*shape[:-1], -(-shape[-1] // MASKS_PER_BYTE)) if shape else ()


def _kind(
    leaf: Any, shape: tuple[int, ...]
) -> Literal["same", "stacked", "packed"] | None:
    leaf_shape = np.shape(leaf)
    if leaf_shape == shape:
        return "same"
    if is_packed(leaf, shape):
        return "packed"
    return "stacked" if leaf_shape[len(leaf_shape) - len(shape) :] == shape else None


def _is_count(leaf: Any) -> bool:
    return (
        is_numeric(leaf)
        and np.shape(leaf) == ()
        and jnp.issubdtype(jnp.result_type(leaf), jnp.integer)
    )


def _split(keys: Sequence[str]) -> tuple[str, ...]:
    """Returns keys in text, of which those with slashes are several."""
    return tuple("/".join(keys).split("/")) if keys else ()


def _views(of: ArrayTree, *, is_typed: bool) -> Iterator[_View]:
    """Yields the model as copies name it: whole, and without its outermost key.

    Flax linen keeps parameters under "params" and hands optimizers what is under it,
    and `optax.lookahead` has moments of one of its two copies of the parameters.
    """
    paths = [path for path, _ in named_leaves(of)]
    text_keys = [_split(keys) for keys, _ in keyed_leaves(of)]
    all_keys = [keys for keys, _ in routed_leaves(of)] if is_typed else text_keys
    yield _make_view(zip(all_keys, paths, strict=True), is_typed)
    tops = [keys[0] for keys in text_keys if keys]
    if "params" in tops or isinstance(of, optax.LookaheadParams):
        for part in dict.fromkeys(["params", *tops]):
            inside = [
                (keys[1:], path)
                for top, keys, path in zip(tops, all_keys, paths, strict=True)
                if top == part and keys[1:]
            ]
            if inside:
                yield _make_view(inside, is_typed)


def _make_view(keys_and_paths: Iterable[tuple[tuple, str]], is_typed: bool) -> _View:
    keys_and_paths = list(keys_and_paths)
    counts = Counter(keys for keys, _ in keys_and_paths)
    # Text that two leaves share says of neither that it is meant.
    path_of = {keys: path for keys, path in keys_and_paths if counts[keys] == 1}
    starts = Counter(
        keys[:length] for keys, _ in keys_and_paths for length in range(len(keys) + 1)
    )
    return _View(path_of, starts, is_typed)


def _find_copies(
    entries: Sequence[_Entry],
    view: _View,
    rank_of_view: int,
    model_leaves: Mapping[str, Any],
) -> dict[tuple, _Copy]:
    """Returns how well a view fits at each place below which it fits any leaf."""
    sizes, fitting, covered, shaped = Counter(), Counter(), Counter(), Counter()
    for entry in entries:
        keys, is_left_out = entry.keys(view), is_masked_node(entry.leaf)
        for depth in range(len(keys) + 1):
            place, inside = keys[:depth], keys[depth:]
            sizes[place] += 1
            if inside in (view.starts if is_left_out else view.path_of):
                fitting[place] += 1
                covered[place] += view.starts[inside]
                if not is_left_out:
                    shape = np.shape(model_leaves[view.path_of[inside]])
                    shaped[place] += _kind(entry.leaf, shape) is not None
    return {
        place: _Copy(
            is_complete=covered[place] == view.starts[()],
            is_typed=view.is_typed,
            has_nothing_else=count == sizes[place],
            leaf_count=covered[place],
            height=-len(place),
            shapes_that_fit=shaped[place],
            rank_of_view=rank_of_view,
        )
        for place, count in fitting.items()
    }


def _best_owner(
    entry: _Entry,
    views: Sequence[_View],
    copies: Sequence[Mapping[tuple, _Copy]],
    model_leaves: Mapping[str, Any],
) -> str | None:
    """Returns the path of the model's leaf that a leaf of a tree mirrors."""
    candidates = []
    for view, copy_at in zip(views, copies, strict=True):
        keys = entry.keys(view)
        for depth in range(len(keys) + 1):
            owner = view.path_of.get(keys[depth:])
            if owner is not None:
                copy = copy_at[keys[:depth]]
                if copy.is_complete or np.ndim(model_leaves[owner]):
                    candidates.append((copy, owner))
    return max(candidates)[1] if candidates else None
