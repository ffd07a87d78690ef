"""Masks in the state of an optimizer: reads them, and puts new ones there."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradflow_jax.masks import prune
from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.packing import unpacked_leaf, unpacked_leaves
from gradflow_jax.transforms.masking import MaskState, copy_mask
from gradflow_jax.trees import (
    AnyTree,
    ArrayTree,
    Masks,
    Params,
    aligned_leaves,
    describe,
    is_traced,
    label,
    mask_leaves,
    named_leaves,
)
from gradflow_jax.trees.checks import check_numbers
from gradflow_jax.trees.mirroring import Mirror, find_mirrors, is_masked_node
from gradflow_jax.trees.names import Keys, keyed_leaves
from gradflow_jax.trees.numbers import check_bool


def replace_masks(
    tx: optax.GradientTransformation,
    opt_state: AnyTree,
    params: Params,
    masks: Masks,
    *,
    reset: bool = True,
) -> AnyTree:
    """Puts new masks into an optimizer state and resets the weights that changed sides.

    Momentum and moments of a weight that is pruned now, or regrown, belong to another
    life of it: they are set to what `tx.init` would give. Apply the masks to params
    too, `gf.prune(params, masks)`; else that happens at the next step.

    Args:
        tx: the optimizer, with `gf.apply_mask` in it.
        opt_state: its state; for Flax NNX `optimizer.opt_state`.
        params: the parameters, for NNX `nnx.state(model, nnx.Param)`.
        masks: the new masks, a tree like params of bool, True keeps.
        reset: False keeps the inner state as it is.

    Returns:
        A state like opt_state; for NNX assign it, `optimizer.opt_state = ...`. A leaf
        of the state belongs to a parameter if it has its place in a copy of their tree,
        and its shape: factored moments (Adafactor) and histories (L-BFGS) are kept.

    Raises:
        TypeError: if a mask is not bool, if `tx` is no optimizer, or `reset` neither
            True nor False.
        ValueError: if masks are another tree than params, if opt_state holds no masks,
            or none for a leaf that the new ones prune, or is no state of `tx`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gradflow_jax as gf
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> tx = optax.chain(optax.trace(0.9), gf.apply_mask())
        >>> _, state = tx.update({"w": jnp.array([1.0, 1.0])}, tx.init(params), params)
        >>> masks = {"w": jnp.array([True, False])}
        >>> state = gf.replace_masks(tx, state, params, masks)
        >>> state[0].trace["w"].tolist(), state[1].masks["w"].tolist()
        ([1.0, 0.0], [True, False])
    """
    _check_optimizer(tx)
    check_bool(reset, "reset")
    new: dict[str | None, Any] = dict(
        zip(
            [path for path, _ in named_leaves(params)],
            mask_leaves(masks, params),
            strict=True,
        )
    )
    fresh_state = tx.init(prune(params, masks))
    try:
        aligned_leaves(
            fresh_state, opt_state, what="tx.init(params)", like_what="opt_state"
        )
    except ValueError as error:
        raise ValueError(
            f"opt_state is no state of this tx for these params: {error} Pass the tx "
            "that made it."
        ) from None
    # A fresh state has the classes of optax, which a restored one may have lost.
    mirrors, are_masks = find_mirrors(fresh_state, params), _flag_masks(fresh_state)
    leaves = jax.tree.leaves(opt_state)
    old: dict[str | None, Any] = {}
    for mirror, leaf, is_mask in zip(mirrors, leaves, are_masks, strict=True):
        if is_mask and mirror.kind in ("same", "packed"):
            mask = _as_bool(leaf, new[mirror.of])
            old[mirror.of] = old[mirror.of] & mask if mirror.of in old else mask
    _check_held(old, new)

    def replace(mirror: Mirror, leaf: Any, is_mask: bool) -> Any:
        owner, fresh = mirror.of, mirror.leaf
        if is_mask and mirror.kind in ("same", "packed"):
            return copy_mask(new[owner], leaf.dtype == jnp.uint8)
        if owner not in old or mirror.kind != "same":
            return leaf
        return jnp.where(old[owner] != new[owner], fresh, leaf) if reset else leaf

    return jax.tree.structure(opt_state).unflatten(
        map(replace, mirrors, leaves, are_masks)
    )


def masks_of(opt_state: ArrayTree, params: Params | None = None) -> Masks:
    """Returns the masks that an optimizer state holds, whatever wraps `gf.apply_mask`.

    Args:
        opt_state: the optimizer's state; for Flax NNX `optimizer.opt_state`. A
            `TrainState` will do.
        params: the parameters. With them the masks are a tree like params: bits are
            unpacked, and leaves for which the state holds none, those of other groups
            of an `optax.partition`, are all True.

    Returns:
        Masks, True keeps, as `gf.report` and `gf.prune` take them. Without params they
        are as the state holds them: bits stay bits, and what optax left out is an
        `optax.MaskedNode`.

    Raises:
        TypeError: if params hold what are no numbers.
        ValueError: if the state holds no masks, several for one leaf, or others than
            those of params.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gradflow_jax as gf
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> masks = {"w": jnp.array([True, False])}
        >>> tx = optax.MultiSteps(optax.chain(optax.sgd(0.1), gf.apply_mask(masks)), 4)
        >>> gf.masks_of(tx.init(params))["w"].tolist()
        [True, False]
    """
    trees = [node.masks for node in _nodes(opt_state) if isinstance(node, MaskState)]
    if not trees:
        raise ValueError(
            f"opt_state, {describe(opt_state)}, holds no masks: pass the state of an "
            "optimizer made by optax.chain(..., gf.apply_mask(masks)), for Flax NNX "
            "optimizer.opt_state."
        )
    mask_of: dict[Keys, Any] = {}
    for keys, mask in (pair for tree in trees for pair in keyed_leaves(tree)):
        if keys in mask_of:
            raise ValueError(
                f"opt_state holds several masks of the {label('/'.join(keys))}, of "
                f"{len(trees)} apply_mask: take those that you mean from the state of "
                "one, opt_state[-1].masks."
            )
        mask_of[keys] = mask
    if params is None:
        return jax.tree.map(lambda mask: mask, functools.reduce(_merge, trees))
    check_numbers(params, "params")
    weights = keyed_leaves(params)
    if lacking := mask_of.keys() - dict(weights).keys():
        raise ValueError(
            f"opt_state holds masks of the {label('/'.join(min(lacking)))}, "
            "which params lack: pass the params that the optimizer was made for."
        )
    completed = [
        mask_of[keys] if keys in mask_of else all_true_like(weight)
        for keys, weight in weights
    ]
    structure = jax.tree.structure(params)
    return structure.unflatten(
        unpacked_leaves(
            structure.unflatten(completed), params, what="the state's masks"
        )
    )


def _check_optimizer(tx: Any) -> None:
    """Raises TypeError at what has not the two functions of an optax optimizer."""
    if not (callable(getattr(tx, "init", None)) and hasattr(tx, "update")):
        raise TypeError(
            f"tx is {describe(tx)}, not an optimizer of optax with init and "
            "update: pass the one that made opt_state."
        )


def _nodes(opt_state: ArrayTree) -> list[Any]:
    """Returns the leaves of a state, of which each `MaskState` is one."""
    return [
        node
        for _, node in keyed_leaves(opt_state, lambda node: isinstance(node, MaskState))
    ]


def _flag_masks(opt_state: ArrayTree) -> list[bool]:
    """Returns for each leaf of a state whether it is in a `MaskState`."""
    return [
        isinstance(node, MaskState)
        for node in _nodes(opt_state)
        for _ in jax.tree.leaves(node)
    ]


def _merge(tree: Any, other: Any) -> Any:
    """Returns a tree in which each `MaskedNode` is what another tree has there."""
    if is_masked_node(tree):
        return other
    if is_masked_node(other):
        return tree
    children, structure = jax.tree.flatten(tree, lambda node: node is not tree)
    others = jax.tree.leaves(other, is_leaf=lambda node: node is not other)
    return structure.unflatten(map(_merge, children, others))


def _check_held(old: Mapping[str | None, Any], new: Mapping[str | None, Any]) -> None:
    """Raises ValueError if a leaf that is to be pruned has no masks in the state."""
    if not old:
        raise ValueError(
            "opt_state holds no masks for these params: make the optimizer by "
            "optax.chain(..., gf.apply_mask(masks))."
        )
    for path, mask in new.items():
        if path not in old and not is_traced(mask) and not jnp.all(mask):
            raise ValueError(
                f"opt_state holds no masks of the {label(path or '')}, which the new "
                "masks prune: no apply_mask has it, as in another group of an "
                "optax.partition. Chain gf.apply_mask(masks) after the whole optimizer."
            )


def _as_bool(leaf: Any, like: Any) -> Any:
    """Returns a mask of the state as bool, in the shape of `like`."""
    return unpacked_leaf(leaf, like) if leaf.dtype == jnp.uint8 else leaf
