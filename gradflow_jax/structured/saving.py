"""Cut models in files: weights, and which of the original units they are."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.structured.composing import Indices, kept_indices
from gradflow_jax.structured.units import Keep, Units
from gradflow_jax.trees import ArrayTree, describe, named_leaves

_KEY = "gradflow_jax.cut"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class SavedCut:
    """A cut model as it was saved.

    Attributes:
        variables: the cut arrays: nested dicts by the pieces of their paths, or the
            tree of `like`.
        keep: bool [units] of each family of the original model, True was kept.
        indices: of each cut leaf, by axis, the original indices of what is left.
        original: the tree of variables with the original shapes, without values.
    """

    variables: ArrayTree
    keep: dict[str, np.ndarray]
    indices: Indices
    original: ArrayTree


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.flax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "saving and loading cut models needs safetensors: "
            "pip install 'gradflow-jax[saving]'."
        ) from error
    return safetensors


def save_cut(
    path: str | os.PathLike, variables: ArrayTree, units: Units, keep: Keep
) -> None:
    """Saves a cut model: its arrays, its widths and the units it is made of.

    The file is in the safetensors format; it is written under another name first and
    then renamed, so that a file of this name is always whole.

    Args:
        path: of the file.
        variables: the cut ones, from `gf.cut`, perhaps trained since.
        units: of the original model.
        keep: which of its units stayed, by family. After several cuts it is
            `gf.structured.compose_keep` of them.

    Returns:
        Nothing.

    Raises:
        ValueError: if the variables are not those that this cut leaves.
        TypeError: if a leaf is not an array of numbers.

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
    shapes = units.shapes(keep)
    tensors = {}
    for name, leaf in named_leaves(variables):
        if shapes.get(name) != jnp.shape(leaf):
            expected = f"of shape {shapes[name]}" if name in shapes else "no such leaf"
            raise ValueError(
                f"variables leaf {name!r} is {describe(leaf)}, but this cut leaves "
                f"{expected}: pass gf.cut(variables, units, keep) of the same units."
            )
        if not isinstance(leaf, (jax.Array, np.ndarray)) or jnp.issubdtype(
            leaf.dtype, jax.dtypes.extended
        ):
            raise TypeError(
                f"variables leaf {name!r} is {describe(leaf)}, which is not an array "
                "of numbers: keep random keys out of what is saved."
            )
        tensors[name] = jnp.asarray(leaf)
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise ValueError(
            f"variables lack the leaf {missing[0]!r}, which the model has."
        )
    record = {
        "version": _VERSION,
        "leaves": {
            name: [list(leaf.shape), np.dtype(leaf.dtype).name]
            for name, leaf in units.leaves.items()
        },
        "keep": {
            name: [flags.size, np.flatnonzero(flags).tolist()]
            for name, flags in units.check_keep(keep).items()
        },
        "indices": {
            name: {str(axis): kept.tolist() for axis, kept in kept_by_axis.items()}
            for name, kept_by_axis in kept_indices(units, keep).items()
        },
    }
    library = _safetensors()
    about = {_KEY: json.dumps(record)}
    write_whole(
        Path(path), lambda partial: library.flax.save_file(tensors, partial, about)
    )


def load_cut(path: str | os.PathLike, *, like: ArrayTree | None = None) -> SavedCut:
    """Loads a cut model, without the original's weights.

    A function or a linen module then runs by
    `gf.shrink(model, gf.find_units(model, saved.original, x), saved.keep)`; an NNX
    module made by `nnx.eval_shape` is shrunk the same way and takes the variables by
    `nnx.update`.

    Args:
        path: of a file that `gf.save_cut` wrote.
        like: a tree of the original variables, or of their shapes, whose structure
            the result gets: `nnx.state(model)`, for one.

    Returns:
        The cut variables, which units they are, and the original shapes.

    Raises:
        ValueError: if the file is none of these, or `like` is of another model.

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
    library = _safetensors()
    try:
        with library.safe_open(path, framework="flax") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except library.SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)} is no safetensors file, or a broken one: {error}."
        ) from None
    record = json.loads(text) if text else {}
    if record.get("version") != _VERSION:
        raise ValueError(
            f"{os.fspath(path)} holds no cut model of this version of gradflow_jax "
            f"(it says {record.get('version')}, {_VERSION} is read); write it by "
            "gf.save_cut."
        )
    shapes = {
        name: jax.ShapeDtypeStruct(tuple(shape), dtype)
        for name, (shape, dtype) in record["leaves"].items()
    }
    keep = {}
    for name, (size, kept) in record["keep"].items():
        keep[name] = np.isin(np.arange(size), kept)
    indices = {
        name: {int(axis): np.asarray(kept) for axis, kept in kept_by_axis.items()}
        for name, kept_by_axis in record["indices"].items()
    }
    return SavedCut(
        _arrange(tensors, shapes, like), keep, indices, _arrange(shapes, shapes, like)
    )


def _arrange(
    leaves: Mapping[str, Any],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    like: ArrayTree | None,
) -> ArrayTree:
    if like is None:
        return nest(leaves)
    named = named_leaves(like)
    missing = [path for path in shapes if path not in dict(named)]
    if missing:
        raise ValueError(
            f"like lacks the leaf {missing[0]!r}, which the file's model has: pass all "
            "variables of the original model."
        )
    for path, leaf in named:
        shape_of_leaf = shapes.get(path)
        if shape_of_leaf is None or shape_of_leaf.shape != jnp.shape(leaf):
            raise ValueError(
                f"like leaf {path!r} is {describe(leaf)}, but the file's model has "
                f"{describe(shape_of_leaf) if shape_of_leaf else 'no such leaf'}: pass "
                "the variables of the original model."
            )
    return jax.tree.structure(like).unflatten(leaves[path] for path, _ in named)


def nest(leaves: Mapping[str, Any]) -> ArrayTree:
    """Returns leaves by path as dicts in dicts, by the pieces of their paths.

    Example:
        >>> nest({"dense/kernel": 1, "dense/bias": 2})
        {'dense': {'kernel': 1, 'bias': 2}}
    """
    if set(leaves) == {""}:
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        at = tree
        for piece in parents:
            at = at.setdefault(piece, {})
        at[last] = leaf
    return tree
