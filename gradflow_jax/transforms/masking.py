"""Masks an optimizer: pruned weights are exactly 0.0 after every step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradflow_jax.masks import prune
from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.packing import (
    is_packable,
    packed_leaf,
    unpacked_leaf,
    unpacked_leaves,
)
from gradflow_jax.trees import (
    AnyTree,
    Masks,
    Params,
    aligned_leaves,
    check_floating,
    mask_leaves,
    named_leaves,
)
from gradflow_jax.trees.mirroring import Mirror, find_mirrors


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

    Masks live in the state. Replace them between steps by `gf.replace_masks`, by
    `optax.tree.set(opt_state, masks=new_masks)` (your own arrays are then in the state:
    a step that donates it deletes them), or hand them to a step, from which
    they stay: `tx.update(grads, state, params, masks=new_masks)`, with Flax NNX
    `optimizer.update(model, grads, masks=new_masks)`. None of them recompiles.

    What is derived from the weights by another rule is not masked with them: for an
    average of params, or `optax.contrib.schedule_free_eval_params`, call `gf.prune`
    on the result. A wrapper that skips steps (`optax.MultiSteps`) masks at the steps
    it makes: apply the masks to params once at the start, which also mends pruned
    weights that are NaN or infinite. `optax.contrib.sam` blends the states of what is
    inside it: chain `apply_mask` after it.

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
        ValueError: at `init` or `update`, if masks are another tree than params; at
            `update`, if params are missing.

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
    initial_masks = masks

    def init(params: Params) -> MaskState:
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
        if masks is not None:
            state = MaskState(_copy_masks(masks, params, packed))
        kept = unpacked_leaves(state.masks, params, what="the state's masks")
        weights = jax.tree.leaves(params)
        steps = aligned_leaves(updates, params, what="updates", like_what="params")
        edited = [
            _select_by_bits(mask, step, -jnp.asarray(weight))
            for mask, step, weight in zip(kept, steps, weights, strict=True)
        ]
        return jax.tree.structure(updates).unflatten(edited), state

    return optax.GradientTransformationExtraArgs(init, update)


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
        of the state belongs to a parameter if its path ends with the parameter's and
        it has its shape: factored moments (Adafactor) and histories (L-BFGS) are kept.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if masks are another tree than params, if opt_state holds no masks
            or is no state of `tx`.

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
    paths = [path for path, _ in named_leaves(params)]
    new: dict[str | None, Any] = dict(
        zip(paths, mask_leaves(masks, params), strict=True)
    )
    fresh_state = tx.init(prune(params, masks))
    try:
        fresh_leaves = aligned_leaves(
            fresh_state, opt_state, what="tx.init(params)", like_what="opt_state"
        )
    except ValueError as error:
        raise ValueError(
            f"opt_state is no state of this tx for these params: {error} Pass the tx "
            "that made it."
        ) from None
    mirrors = find_mirrors(opt_state, params)
    # No other transformation keeps a bool for each weight under the name `masks`.
    old = {
        mirror.of: _as_bool(mirror.leaf, new[mirror.of])
        for mirror in mirrors
        if _belongs_to_weights(mirror) and _is_mask(mirror)
    }
    if old.keys() != new.keys():
        raise ValueError(
            "opt_state holds no masks for these params: make the optimizer by "
            "optax.chain(..., gf.apply_mask(masks))."
        )

    def replace(mirror: Mirror, fresh: Any) -> Any:
        if not _belongs_to_weights(mirror):
            return mirror.leaf
        owner, leaf = mirror.of, mirror.leaf
        if _is_mask(mirror):
            return _copy(new[owner], leaf.dtype == jnp.uint8)
        return jnp.where(old[owner] != new[owner], fresh, leaf) if reset else leaf

    return jax.tree.structure(opt_state).unflatten(map(replace, mirrors, fresh_leaves))


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


def _is_mask(mirror: Mirror) -> bool:
    """Says whether a leaf of a state is a mask, as bool or as bits."""
    is_named = "masks" in mirror.path.split("/")
    return is_named and jnp.result_type(mirror.leaf) in (jnp.bool_, jnp.uint8)


def _belongs_to_weights(mirror: Mirror) -> bool:
    """Says whether a leaf of a state holds a number, or a bit, for each weight."""
    return mirror.kind == "same" or (mirror.kind == "packed" and _is_mask(mirror))


def _as_bool(leaf: Any, like: Any) -> Any:
    """Returns a mask of the state as bool, in the shape of `like`."""
    return unpacked_leaf(leaf, like) if leaf.dtype == jnp.uint8 else leaf


def _copy_masks(masks: Masks, params: Params, packed: bool) -> Masks:
    """Returns a copy of masks in the structure of params, whose leaves they fit.

    Flax NNX calls `init` with `State[Param]` and `update` with `State[array]`. A copy,
    because a train step may donate the optimizer's state.
    """
    leaves = mask_leaves(masks, params)
    return jax.tree.structure(params).unflatten(
        _copy(mask, packed and is_packable(mask)) for mask in leaves
    )


def _copy(mask: Any, packed: bool) -> jax.Array:
    """Returns a new array with a mask, as bits if it is to be packed."""
    return packed_leaf(mask) if packed else jnp.array(mask, copy=True)
