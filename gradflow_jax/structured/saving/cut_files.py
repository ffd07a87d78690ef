"""Cut models in files: saves them whole, and loads what was saved and nothing else."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.programs.models import variables_of
from gradflow_jax.structured.composing import Indices, kept_indices
from gradflow_jax.structured.saving.cut_records import (
    CutRecord,
    read_record,
    shape_of,
    write_record,
)
from gradflow_jax.structured.saving.leaf_arrays import (
    fetch_leaf,
    from_tensor,
    kind_of_leaf,
    to_tensor,
)
from gradflow_jax.structured.saving.tensor_files import (
    METADATA,
    read_tensors,
    write_tensors,
)
from gradflow_jax.structured.saving.tree_records import rebuild_tree, record_tree
from gradflow_jax.structured.units import Keep, Units, program_of
from gradflow_jax.trees import ArrayTree, is_nnx_module, label, named_leaves
from gradflow_jax.trees.dtypes import is_numeric

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
        ValueError: if the variables are not those that this cut leaves, or the values
            of one are gone.
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
    if not isinstance(units, Units):
        raise TypeError(
            f"units is a {type(units).__name__}: pass the units of the original model, "
            "from gf.find_units."
        )
    variables = _variables(variables)
    shapes, arrays, saved = units.shapes(keep), {}, {}
    for name, leaf in named_leaves(variables):
        shape = jnp.shape(leaf) if is_numeric(leaf) else None
        if name not in shapes or (shape is not None and shape != shapes[name]):
            expected = f"of shape {shapes[name]}" if name in shapes else "no such leaf"
            raise ValueError(
                f"variables {label(name)} is {_say(leaf)}, but this cut leaves "
                f"{expected}: pass gf.cut(variables, units, keep) of the same units."
            )
        kind = kind_of_leaf(name, leaf)
        arrays[name] = fetch_leaf(name, leaf, kind)
        saved[name] = (shapes[name], kind)
    _check_complete(saved, units)
    _check_names(saved)
    record = CutRecord(
        leaves={
            name: (leaf.shape, kind_of_leaf(name, leaf))
            for name, leaf in units.leaves.items()
        },
        saved=saved,
        keep=units.check_keep(keep),
        indices=kept_indices(units, keep),
        tree=record_tree(units.model.variables),
        saved_tree=record_tree(variables),
    )
    tensors = {name: to_tensor(array) for name, array in arrays.items()}
    about = {_KEY: write_record(record, tensors)}
    write_whole(file, lambda partial: write_tensors(partial, tensors, about))


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
        tensors, about = read_tensors(file)
    except ValueError as error:
        raise ValueError(
            f"{file} is no safetensors file, or a broken one: {error}."
        ) from None
    if _KEY not in about:
        raise ValueError(f"{file} holds no cut model: write it by gf.save_cut.")
    try:
        record = read_record(about[_KEY], tensors)
        variables = {
            name: from_tensor(tensors[name], *leaf)
            for name, leaf in record.saved.items()
        }
    except ValueError as error:
        raise ValueError(
            f"{file} holds no cut model of this version of gradflow_jax, or a broken "
            f"one: {error}. Write it anew by gf.save_cut."
        ) from None
    original = {name: shape_of(leaf) for name, leaf in record.leaves.items()}
    if like is None:
        trees = (
            rebuild_tree(record.saved_tree, variables),
            rebuild_tree(record.tree, original),
        )
    else:
        trees = _arrange(variables, original, _variables(like))
    return SavedCut(trees[0], dict(record.keep), record.indices, trees[1])


def _arrange(
    variables: dict[str, Any], original: dict[str, Any], like: ArrayTree
) -> tuple[ArrayTree, ArrayTree]:
    """Returns the cut leaves and the original shapes in the tree of `like`."""
    named = named_leaves(like)
    missing = [path for path in original if path not in dict(named)]
    if missing:
        raise ValueError(
            f"like lacks the leaf {missing[0]!r}, which the file's model has: pass all "
            "variables of the original model."
        )
    for path, leaf in named:
        expected = original.get(path)
        shape = jnp.shape(leaf) if is_numeric(leaf) else None
        if expected is None or expected.shape != shape:
            has = "no such leaf" if expected is None else _say(expected)
            raise ValueError(
                f"like {label(path)} is {_say(leaf)}, but the file's model has {has}: "
                "pass the variables of the original model."
            )
    structure = jax.tree.structure(like)
    return (
        structure.unflatten(variables.get(path, leaf) for path, leaf in named),
        structure.unflatten(original[path] for path, _ in named),
    )


def _as_path(path: str | os.PathLike) -> Path:
    try:
        result = Path(path)
    except TypeError:
        raise TypeError(
            f"path is a {type(path).__name__}: pass the path of a file, a string or a "
            "pathlib.Path."
        ) from None
    if "\0" in str(result):
        raise ValueError(
            f"{str(path)!r} holds a null character, as no file's name can."
        )
    return result


def _variables(tree: Any) -> ArrayTree:
    """Returns the state of an NNX module, and a tree as it is."""
    return variables_of(tree) if is_nnx_module(tree) else tree


def _say(leaf: Any) -> str:
    """Returns what an error calls a leaf, of whatever library it is."""
    if isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"a {type(leaf).__name__}"


def _check_complete(saved: dict[str, Any], units: Units) -> None:
    """Raises ValueError if a leaf is left out that the model does not run without."""
    counts = program_of(units).read()
    for name in units.leaves:
        if name not in saved and (name in counts or units.model.is_parameter(name)):
            raise ValueError(
                f"variables lack the leaf {name!r}, which the model has. Left out may "
                "be only what is no parameter and does not count in the forward pass "
                "that the units were found in."
            )


def _check_names(saved: dict[str, Any]) -> None:
    for name in saved:
        # Half of a surrogate pair is no text in UTF-8, which the format is in.
        if name == METADATA or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise ValueError(
                f"variables {label(name)} has a name that a safetensors file does not "
                "hold: rename it."
            )
