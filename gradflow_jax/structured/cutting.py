"""Cuts trees: variables, optimizer states, masks, averages, initial weights."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradflow_jax.masks.packing import is_packable, packed_leaf, unpacked_leaf
from gradflow_jax.masks.selection.placement import explicit_sharding
from gradflow_jax.programs.models import variables_of
from gradflow_jax.programs.variables import refuse_model
from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.composing import kept_indices
from gradflow_jax.structured.plans import folds_of, group_numbers
from gradflow_jax.structured.running import nnx_widths
from gradflow_jax.structured.running.fold_into_biases import fold_constants
from gradflow_jax.structured.units import (
    Keep,
    Units,
    check_units,
    plan_cut,
    program_of,
    refuse_training_mode,
)
from gradflow_jax.trees import (
    AnyTree,
    ArrayTree,
    aligned_leaves,
    is_nnx_module,
    is_traced,
    named_leaves,
)
from gradflow_jax.trees.checks import check_numbers
from gradflow_jax.trees.mirroring import is_packed


def cut(
    tree: AnyTree,
    units: Units,
    keep: Keep,
    *,
    like: ArrayTree | None = None,
) -> AnyTree:
    """Removes units from a tree: the arrays become smaller.

    For variables and for all that mirrors parameters: the state of an optax optimizer
    (moments, masks, averages, accumulated steps, found by the structure of the state),
    masks, averaged weights, initial weights. Counts, keys and rates are carried over.
    Values that stay are not changed.

    Args:
        tree: of arrays, or of `jax.ShapeDtypeStruct`s to plan without allocating; or
            an `nnx.Module`.
        units: of the model, from `gf.find_units`.
        keep: bool [units] for families that are cut, by name, True keeps, as
            `gf.choose_units` returns it. Families not named stay whole.
        like: what the result must look like, for example
            `jax.eval_shape(tx.init, small_params)`: checked path by path and shape by
            shape. With it arrays that mirror no parameter are carried over.

    Returns:
        The same tree with smaller leaves. A leaf laid out over a mesh keeps its
        sharding, but for axes whose new size the mesh does not divide. An `nnx.Module`
        comes back as a new one whose attributes (`num_features`, `out_features`) are
        its new widths, too; `gf.shrink` also proves that its code computes the same.

    Raises:
        TypeError: if units are not what `gf.find_units` returned, or a leaf holds what
            are no numbers.
        ValueError: if keep is out of range or empty, if the tree holds no leaf of the
            model or one of another shape, or if the result is not like `like`.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.ones((2, 3)), "out": jnp.ones((3, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 2)))
        >>> keep = {"in[1]": np.array([True, False, True])}
        >>> small = gf.cut(params, units, keep)
        >>> state = gf.cut(optax.adam(0.1).init(params), units, keep)
        >>> small["in"].shape, state[0].mu["out"].shape
        ((2, 2), (2, 1))
    """
    check_units(units)
    if is_nnx_module(tree):
        return _cut_module(tree, units, keep, like)
    refuse_model(tree, "tree")
    check_numbers(tree, "tree", objects=True)
    indices = kept_indices(units, keep)
    owners = align(tree, units.model.variables, what="tree", strangers=like is not None)
    folds = folds_of(units.families, units.check_keep(keep), program_of(units))
    added = fold_constants(folds, tree, owners, units.leaves)
    leaves = []
    for (path, leaf), owner in zip(named_leaves(tree), owners, strict=True):
        if owner is None or owner not in indices:
            leaves.append(added.get(path, leaf))
        else:
            shape = units.leaves[owner].shape
            leaves.append(_cut_leaf(added.get(path, leaf), shape, indices[owner]))
    result = jax.tree.structure(tree).unflatten(leaves)
    if like is not None:
        aligned_leaves(result, like, what="the cut tree", like_what="like")
    return result


def _cut_module(module: Any, units: Units, keep: Keep, like: ArrayTree | None) -> Any:
    """Returns a new NNX module with its variables cut and its attributes changed."""
    plan = plan_cut(units, keep)
    if plan.keep:
        refuse_training_mode(units)
    small = cut(variables_of(module), units, keep, like=like)
    groups = group_numbers(plan, program_of(units))
    return nnx_widths.resize(module, small, groups=groups)


def _cut_leaf(
    leaf: Any, shape: Sequence[int], indices: Mapping[int, np.ndarray]
) -> Any:
    if is_packed(leaf, tuple(shape)):
        mask = unpacked_leaf(leaf, jax.ShapeDtypeStruct(tuple(shape), bool))
        small = _cut_leaf(mask, shape, indices)
        return packed_leaf(small) if is_packable(small) else small
    # L-BFGS keeps the last k copies of a leaf on a leading axis: axis numbers shift.
    extra = jnp.ndim(leaf) - len(shape)
    kept_by_axis = {axis + extra: kept for axis, kept in indices.items()}
    if isinstance(leaf, jax.ShapeDtypeStruct):
        sizes = list(leaf.shape)
        for axis, kept in kept_by_axis.items():
            sizes[axis] = len(kept)
        return jax.ShapeDtypeStruct(tuple(sizes), leaf.dtype)
    explicit = explicit_sharding(leaf)
    result = leaf
    if explicit is not None:
        # An array on many devices is gathered along the axes that indices are taken
        # of; JAX asks for that to be said where mesh axes are explicit.
        result = _move(leaf, _drop_axes(explicit, kept_by_axis, leaf.ndim))
    elif _lies_with_numpy(leaf):
        result = np.asarray(leaf)
    take: Callable = np.take
    if not isinstance(result, np.ndarray):
        # The indices are in range; clipping says so, and no comparison is compiled.
        take = functools.partial(jnp.take, mode="clip")
    for axis, kept in kept_by_axis.items():
        result = take(result, kept, axis)
    if explicit is not None:
        return _move(result, _drop_undivided(explicit, result.shape))
    if is_traced(leaf) or not isinstance(leaf, jax.Array):
        return result
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        sharding = _drop_undivided(sharding, result.shape)
    return jax.device_put(result, sharding)


def _move(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Moves a leaf, whose mesh may have automatic axes beside explicit ones.

    The type of what is traced names explicit axes alone, and others cannot be asked for
    there; an array is put where it is to lie.
    """
    if is_traced(leaf):
        return jax.sharding.reshard(leaf, sharding)
    return jax.device_put(leaf, sharding)


def _lies_with_numpy(leaf: Any) -> bool:
    """Says whether numpy reads a leaf where it lies: then nothing is compiled for it.

    Numpy does not know that a dtype is weak, nor what is divided over devices.
    """
    return (
        isinstance(leaf, jax.Array)
        and not is_traced(leaf)
        and len(leaf.devices()) == 1
        and next(iter(leaf.devices())).platform == "cpu"
        and leaf.is_fully_addressable
        and not leaf.weak_type
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    )


def _axes_of(sharding: NamedSharding, rank: int) -> list[Any]:
    return [*sharding.spec] + [None] * (rank - len(sharding.spec))


def _drop_axes(
    sharding: NamedSharding, axes: Iterable[int], rank: int
) -> NamedSharding:
    spec = _axes_of(sharding, rank)
    for axis in axes:
        spec[axis] = None
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def _drop_undivided(sharding: NamedSharding, shape: Sequence[int]) -> NamedSharding:
    """Returns a sharding without the axes whose sizes the mesh does not divide."""
    spec = _axes_of(sharding, len(shape))
    for axis, names in enumerate(spec):
        names = names if isinstance(names, tuple) else (names,) if names else ()
        count = int(np.prod([sharding.mesh.shape[name] for name in names], dtype=int))
        if shape[axis] % count:
            spec[axis] = None
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))
