"""Masks an optimizer: pruned weights are exactly 0.0 after every step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.packing import is_packable, packed_leaf, unpacked_leaves
from gradflow_jax.trees import (
    Masks,
    Params,
    aligned_leaves,
    check_floating,
    describe,
    mask_leaves,
)
from gradflow_jax.trees.checks import check_numbers
from gradflow_jax.trees.dtypes import has_values, is_numeric
from gradflow_jax.trees.mirroring import is_masked_node
from gradflow_jax.trees.names import keyed_leaves
from gradflow_jax.trees.numbers import check_bool


class MaskState(NamedTuple):
    """The state of `apply_mask`.

    Attributes:
        masks: a tree like params of bool, True keeps; of bits, as `gf.pack_masks` makes
            them, where they were asked for.
    """

    masks: Masks


def apply_mask(
    masks: Masks | None = None, *, packed: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Makes pruned weights exactly 0.0 after every step, as the *last* of a chain.

        tx = optax.chain(optax.adamw(1e-3), gf.apply_mask(masks))

    It edits updates: where the mask is False the update is −θ, so that
    `optax.apply_updates` gives 0.0 to the bit, whatever momentum, moments or weight
    decay had in mind. Masking gradients would not do: in five steps of momentum a
    pruned weight drifted to −0.9988. `optax.masked` is another thing (one static bool
    per leaf).

    Masks live in the state; read them by `gf.masks_of`. Replace them between steps by
    `gf.replace_masks`, by `optax.tree.set(opt_state, masks=new_masks)` (your own arrays
    are then in the state: a step that donates it deletes them; a parameter must not be
    called "masks"), or hand them to a step, from which they stay:
    `tx.update(grads, state, params, masks=new_masks)`, with Flax NNX
    `optimizer.update(model, grads, masks=new_masks)`. None of them recompiles.

    Nothing inside a chain can tell that it is not the last: what comes after it moves
    pruned weights again. Inside `optax.partition` and `optax.masked` the masks of the
    leaves that are there hold, and masks may be of the whole tree.

    What is derived from the weights by another rule is not masked with them: for an
    average of params, or `optax.contrib.schedule_free_eval_params`, call `gf.prune`
    on the result. A wrapper that skips steps (`optax.MultiSteps`) masks at the steps
    it makes: apply the masks to params once at the start, which also mends pruned
    weights that are NaN or infinite. Chain `apply_mask` after what may not hold it:
    `optax.contrib.sam` blends the states of what is inside it, `optax.lookahead` blends
    the weights with slow ones that were never masked, and `optax.flatten` makes one
    vector of the tree. After `lookahead` the masks are
    `optax.LookaheadParams(masks, masks)`.

    Args:
        masks: a tree like params of bool, True keeps; None starts with all True.
        packed: whether the state holds the masks as bits, an eighth of the memory; read
            them by `gf.unpack_masks`.

    Returns:
        A `GradientTransformationExtraArgs`. It copies the masks it is given, so that
        donating the optimizer state leaves yours alone.

    Raises:
        TypeError: at `init` or `update`, if a mask is not bool or params are not
            real floating-point arrays.
        ValueError: at `init` or `update`, if masks are another tree than params, or
            params the vector of `optax.flatten`; at `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gradflow_jax as gf
        >>> params = jnp.array([1.0, 2.0])
        >>> masks = jnp.array([True, False])
        >>> tx = optax.chain(optax.sgd(0.1, momentum=0.9), gf.apply_mask(masks))
        >>> state = tx.init(params)
        >>> updates, state = tx.update(jnp.array([1.0, 1.0]), state, params)
        >>> print(optax.apply_updates(params, updates))
        [0.9 0. ]

    Reference:
        The form is that of `optax.keep_params_nonnegative`.
    """
    check_bool(packed, "packed")
    initial_masks = masks

    def init(params: Params) -> MaskState:
        if not _is_part_without_leaves(params):
            check_floating(params, "params")
        masks = initial_masks
        if masks is None:
            masks = jax.tree.map(all_true_like, params)
        return MaskState(_copy_masks(masks, params, packed))

    def update(
        updates: optax.Updates,
        state: Any,
        params: Params | None = None,
        *,
        masks: Masks | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, MaskState]:
        del extra_args
        if params is None:
            raise ValueError(
                "apply_mask needs the parameters, to bring pruned weights to exactly "
                "zero: call tx.update(updates, state, params)."
            )
        if _is_part_without_leaves(params):
            return updates, state
        if masks is not None:
            state = MaskState(_copy_masks(masks, params, packed))
        kept = unpacked_leaves(
            _leave_out(state.masks, params), params, what="the state's masks"
        )
        weights = jax.tree.leaves(params)
        steps = aligned_leaves(updates, params, what="updates", like_what="params")
        _check_leaves(weights, params, "params")
        _check_leaves(steps, updates, "updates")
        edited = [
            _select_by_bits(mask, step, -jnp.asarray(weight))
            for mask, step, weight in zip(kept, steps, weights, strict=True)
        ]
        return jax.tree.structure(updates).unflatten(edited), state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_leaves(leaves: list[Any], tree: Any, what: str) -> None:
    """Raises TypeError at a leaf that is no array; only then are leaves named."""
    if not all(is_numeric(leaf) and has_values(leaf) for leaf in leaves):
        check_numbers(tree, what, or_shapes=False)


def _select_by_bits(mask: jax.Array, if_true: Any, if_false: Any) -> jax.Array:
    """Returns `jnp.where(mask, if_true, if_false)`, computed with integers.

    XLA's CPU is slow at a select by bool: a step of sgd took 1.18 times as long as
    without masks, with these integers 1.1, and reading the masks alone costs 1.05.
    """
    # The wider of the two dtypes is taken: a rounded −θ would not bring θ to zero.
    dtype = jnp.result_type(if_true, if_false)
    if_true, if_false = jnp.asarray(if_true, dtype), jnp.asarray(if_false, dtype)
    kind = jnp.dtype(f"int{8 * dtype.itemsize}")
    true_bits, false_bits = (
        jax.lax.bitcast_convert_type(leaf, kind) for leaf in (if_true, if_false)
    )
    # True − 1 is 0 and False − 1 is −1, whose bits are all ones. So a ^ ((a ^ b) & 0)
    # is a where the mask is True, and a ^ (a ^ b) is b where it is False.
    pruned = jnp.asarray(mask, kind) - np.array(1, kind)
    selected = true_bits ^ ((true_bits ^ false_bits) & pruned)
    return jax.lax.bitcast_convert_type(selected, dtype)


def _is_part_without_leaves(params: Params) -> bool:
    """Says whether params are a group of `optax.partition` to which no leaf belongs."""
    leaves = [leaf for _, leaf in keyed_leaves(params, is_masked_node)]
    return bool(leaves) and all(map(is_masked_node, leaves))


def _leave_out(masks: Masks, params: Params) -> Masks:
    """Returns masks without the leaves that optax left out of params.

    `optax.partition` and `optax.masked` hand on the whole tree with a `MaskedNode` in
    place of each leaf or subtree that belongs to others.

    Raises:
        ValueError: if params are a vector and masks a tree of as many numbers.
    """
    _check_not_flattened(masks, params)
    absent = {
        keys
        for keys, leaf in keyed_leaves(params, is_masked_node)
        if is_masked_node(leaf)
    }
    if not absent:
        return masks
    leaves = [
        optax.MaskedNode()
        if any(keys[:length] in absent for length in range(len(keys) + 1))
        else leaf
        for keys, leaf in keyed_leaves(masks)
    ]
    return jax.tree.structure(masks).unflatten(leaves)


def _check_not_flattened(masks: Masks, params: Params) -> None:
    """Raises ValueError where params are the vector that `optax.flatten` makes.

    Masks could be joined in the order of their own tree, but not be checked to be
    those of the leaves that the vector was made of.
    """
    weights, flags = keyed_leaves(params), keyed_leaves(masks)
    if [keys for keys, _ in weights] != [()] or not all(
        is_numeric(mask) for _, mask in flags
    ):
        return
    ((_, vector),) = weights
    if (
        np.ndim(vector) == 1
        and sum(np.size(mask) for _, mask in flags) == np.size(vector)
        and [(keys, np.ndim(mask)) for keys, mask in flags] != [((), 1)]
    ):
        raise ValueError(
            f"params is one vector, {describe(vector)}, as optax.flatten makes of a "
            "tree, and masks are of that tree: chain apply_mask after it, "
            "optax.chain(optax.flatten(...), gf.apply_mask(masks))."
        )


def _copy_masks(masks: Masks, params: Params, packed: bool) -> Masks:
    """Returns a copy of masks in the structure of params, whose leaves they fit.

    Flax NNX calls `init` with `State[Param]` and `update` with `State[array]`. A copy,
    because a train step may donate the optimizer's state.
    """
    structure = jax.tree.structure(params)
    if _is_part_without_leaves(params):
        return structure.unflatten([])
    leaves = mask_leaves(_leave_out(masks, params), params)
    return structure.unflatten(
        copy_mask(mask, packed and is_packable(mask)) for mask in leaves
    )


def copy_mask(mask: Any, packed: bool) -> jax.Array:
    """Returns a new array with a mask, as bits if it is to be packed."""
    return packed_leaf(mask) if packed else jnp.array(mask, copy=True)
