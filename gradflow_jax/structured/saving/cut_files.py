"""Cut models in files: saves them whole, and loads what was saved and nothing else."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.programs.models import variables_of
from gradflow_jax.structured.composing import Indices, kept_indices
from gradflow_jax.structured.saving.cut_records import (
    CutRecord,
    read_record,
    write_record,
)
from gradflow_jax.structured.saving.leaf_arrays import (
    from_tensor,
    to_tensor,
    values_of,
)
from gradflow_jax.structured.saving.tensor_files import pack_tensors, read_tensors
from gradflow_jax.structured.units import Keep, Units, check_units, program_of
from gradflow_jax.trees import (
    ArrayTree,
    fetch,
    is_nnx_module,
    label,
    map_named,
    named_leaves,
)

_KEY = "gradflow_jax.cut"


@dataclass(frozen=True, eq=False)
class SavedCut:
    """A cut model as it was saved.

    Attributes:
        variables: the cut arrays, in the tree of dicts, lists and tuples in which they
            were saved, or in that of `like`.
        keep: bool [units] of each family of the original model, True was kept.
        indices: of each cut leaf, by axis, the original indices of what is left.
        original: the tree of variables with the original shapes, without values.
    """

    variables: ArrayTree
    keep: dict[str, np.ndarray]
    indices: Indices
    original: ArrayTree


def save_cut(
    path: str | os.PathLike, variables: ArrayTree, units: Units, keep: Keep
) -> None:
    """Saves a cut model: its arrays, its widths and the units it is made of.

    The file is in the safetensors format, with a SHA-256 of all that is in it. It is
    written under another name first and then renamed, so that a file of this name is
    always whole, whoever else writes it at the same time. Of arrays that several
    processes hold parts of, each process calls this and writes all.

    Args:
        path: of the file.
        variables: the cut ones, from `gf.cut`, perhaps trained since: numbers of any
            dtype, and random keys; or an NNX module that holds them. What is no
            parameter and does not count in the forward pass that the units were found
            in may be left out, such as the random state of dropout:
            `nnx.state(model, nnx.Not(nnx.RngState))`.
        units: of the original model.
        keep: which of its units stayed, by family. After several cuts it is
            `gf.structured.compose_keep` of them.

    Returns:
        Nothing.

    Raises:
        ModuleNotFoundError: without safetensors, the extra `saving`.
        ValueError: if the variables are not those that this cut leaves, or the values
            of one are gone, or lie on other processes alone.
        TypeError: if a leaf is not an array of numbers or of random keys, or a key of
            the tree is neither a string nor a number.
        OSError: that names the path, if it cannot be written.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 3)))
        >>> keep = {"in[1]": np.array([True, False, True])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/small.safetensors"
        ...     gf.save_cut(file, gf.cut(params, units, keep), units, keep)
        ...     saved = gf.load_cut(file)
        >>> saved.variables["in"].shape, saved.indices["out"]
        ((3, 2), {0: array([0, 2])})
    """
    file = _as_path(path)
    check_units(units)
    variables = _variables(variables)
    arrays = {name: values_of(name, leaf) for name, leaf in named_leaves(variables)}
    remedy = "pass gf.cut(variables, units, keep) of the same units"
    _check_shapes("variables", variables, "this cut", units.shapes(keep), remedy)
    names_read = program_of(units).read()
    for name in units.leaves:
        is_needed = name in names_read or units.model.is_parameter(name)
        if is_needed and name not in arrays:
            raise ValueError(
                f"variables lack the leaf {name!r}, which the model has. Left out may "
                "be only what is no parameter and does not count in the forward pass "
                "that the units were found in."
            )
    record = CutRecord(
        original=map_named(lambda name, _: units.leaves[name], units.model.variables),
        saved=variables,
        keep=units.check_keep(keep),
        indices=kept_indices(units, keep),
    )
    fetched = fetch(arrays, "variables")
    tensors = {name: to_tensor(array) for name, array in fetched.items()}
    content = pack_tensors(tensors, {_KEY: write_record(record, tensors)})
    write_whole(file, lambda partial: partial.write_bytes(content))


def load_cut(path: str | os.PathLike, *, like: ArrayTree | None = None) -> SavedCut:
    """Loads a cut model, without the original's weights.

    A function or a linen module then runs by
    `gf.shrink(model, gf.find_units(model, saved.original, x), saved.keep)`; an NNX
    module made by `nnx.eval_shape` is shrunk the same way and takes the variables by
    `nnx.update`.

    Args:
        path: of a file that `gf.save_cut` wrote.
        like: a tree of the original variables, or of their shapes, whose structure
            the result gets: `nnx.state(model)`, for one. What was left out of the file
            is as it is here.

    Returns:
        The cut variables, which units they are, and the original shapes. Without `like`
        they are in the tree that was saved, where states and modules are dicts.

    Raises:
        ModuleNotFoundError: without safetensors, the extra `saving`.
        ValueError: that names the file, if it is none of these or is not as it was
            written; if `like` is of another model.
        OSError: if it cannot be read.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params, x = {"in": jnp.eye(3), "out": jnp.ones((3, 1))}, jnp.ones((1, 3))
        >>> units = gf.find_units(apply, params, x)
        >>> keep = {"in[1]": np.array([True, False, True])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/small.safetensors"
        ...     gf.save_cut(file, gf.cut(params, units, keep), units, keep)
        ...     saved = gf.load_cut(file)
        >>> units = gf.find_units(apply, saved.original, x)
        >>> small = gf.shrink(apply, units, saved.keep)
        >>> small(saved.variables, x).tolist()  # two of three ones are left
        [[2.0]]
    """
    file = _as_path(path)
    try:
        tensors, metadata = read_tensors(file)
    except ValueError as error:
        raise ValueError(
            f"{file} is no safetensors file, or a broken one: {error}."
        ) from None
    if _KEY not in metadata:
        raise ValueError(f"{file} holds no cut model: write it by gf.save_cut.")
    try:
        record = read_record(metadata[_KEY], tensors)
        variables = map_named(
            lambda name, leaf: from_tensor(name, leaf, tensors[name]), record.saved
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} holds no cut model of this version of gradflow_jax, or a broken "
            f"one: {error}. Write it anew by gf.save_cut."
        ) from None
    if like is None:
        return SavedCut(variables, record.keep, record.indices, record.original)
    variables, original = _arrange(variables, record.original, _variables(like))
    return SavedCut(variables, record.keep, record.indices, original)


def _arrange(
    variables: ArrayTree, original: ArrayTree, like: ArrayTree
) -> tuple[ArrayTree, ArrayTree]:
    """Returns the cut leaves and the original shapes in the tree of `like`."""
    cut_leaves, leaves = dict(named_leaves(variables)), dict(named_leaves(original))
    if missing := leaves.keys() - dict(named_leaves(like)).keys():
        raise ValueError(
            f"like lacks the leaf {min(missing)!r}, which the file's model has: pass "
            "all variables of the original model."
        )
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    remedy = "pass the variables of the original model"
    _check_shapes("like", like, "the file's model", shapes, remedy)
    return (
        map_named(lambda name, leaf: cut_leaves.get(name, leaf), like),
        map_named(lambda name, _: leaves[name], like),
    )


def _check_shapes(
    what: str,
    tree: ArrayTree,
    owner: str,
    shapes: Mapping[str, tuple[int, ...]],
    remedy: str,
) -> None:
    """Raises ValueError if a tree has a leaf of another name or shape than expected."""
    for name, leaf in named_leaves(tree):
        if shapes.get(name) != np.shape(leaf):
            raise ValueError(
                f"{what} {label(name)} has the shape {np.shape(leaf)}, but {owner} has "
                f"{shapes.get(name, 'no such leaf')}: {remedy}."
            )


def _as_path(path: str | os.PathLike) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(
            f"path is a {type(path).__name__}: pass the path of a file, a string or a "
            "pathlib.Path."
        ) from None


def _variables(tree: Any) -> ArrayTree:
    """Returns the state of an NNX module, and a tree as it is."""
    return variables_of(tree) if is_nnx_module(tree) else tree
