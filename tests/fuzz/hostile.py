"""Values that nobody means to pass: numbers, containers, leaves, trees and functions.

Each is made anew by a function, for some, such as generators, serve once.
"""

import datetime
import decimal
import fractions
import math
import pathlib
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

NUMBERS = {
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "3": lambda: 3,
    "2**70": lambda: 2**70,
    "10**5000": lambda: 10**5000,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "90.0": lambda: 90.0,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "1e308": lambda: 1e308,
    "1j": lambda: 1j,
    "float32": lambda: np.float32(0.5),
    "int64": lambda: np.int64(1),
    "bool_": lambda: np.bool_(True),
    "bfloat16": lambda: ml_dtypes.bfloat16(0.5),
    "Decimal": lambda: decimal.Decimal("0.5"),
    "Fraction": lambda: fractions.Fraction(1, 2),
}
TEXTS = {
    "empty text": lambda: "",
    "text": lambda: "weights",
    "star": lambda: "*",
    "bracket": lambda: "[",
    "bytes": lambda: b"weights",
    "path": lambda: pathlib.Path("no") / "such" / "file",
}
CONTAINERS = {
    "None": lambda: None,
    "()": tuple,
    "[]": list,
    "{}": dict,
    "set": lambda: {1.0},
    "frozenset": lambda: frozenset({"in"}),
    "generator": lambda: (i for i in range(2)),
    "range": lambda: range(3),
    "[None]": lambda: [None],
    "[0.5, 0.5]": lambda: [0.5, 0.5],
    "ragged": lambda: [[1.0], [1.0, 2.0]],
    "['a', 'b']": lambda: ["a", "b"],
    "{'a': None}": lambda: {"a": None},
    "{'a': 0.5}": lambda: {"a": 0.5},
    "{'a': {}}": lambda: {"a": {}},
    "keys of two types": lambda: {1: np.ones(2), "b": np.ones(2)},
    "keys of numbers": lambda: {0: np.ones((2, 3), np.float32)},
    "namespace": lambda: types.SimpleNamespace(shape="wide", dtype="float"),
}
OBJECTS = {
    "Ellipsis": lambda: Ellipsis,
    "object": object,
    "class": lambda: int,
    "module": lambda: math,
    "lambda": lambda: lambda *args, **kwargs: None,
    "error": lambda: ValueError("an error as a value"),
    "date": lambda: datetime.date(2021, 5, 3),
    "dtype": lambda: np.dtype("float32"),
    "key": lambda: jax.random.key(0),
    "slice": lambda: slice(1, 2),
}
LEAVES = {
    "object array": lambda: np.array([object(), None]),
    "array of text": lambda: np.array([["a", "b"]]),
    "array of dates": lambda: np.array(["2021-05-03"], "M8[D]"),
    "structured": lambda: np.zeros((2, 3), [("a", "f4"), ("b", "i4")]),
    "masked": lambda: np.ma.masked_array(np.ones((2, 3)), mask=True),
    "empty": lambda: np.ones((0, 3), np.float32),
    "0-d": lambda: np.array(1.0, np.float32),
    "five axes": lambda: np.ones((1, 1, 1, 2, 1), np.float32),
    "of bools": lambda: np.ones((2, 3), bool),
    "of int8": lambda: np.ones((2, 3), np.int8),
    "of uint64": lambda: np.ones((2, 3), np.uint64),
    "of float16": lambda: np.ones((2, 3), np.float16),
    "of bfloat16": lambda: np.ones((2, 3), ml_dtypes.bfloat16),
    "of float8": lambda: np.ones((2, 3), ml_dtypes.float8_e4m3fn),
    "of int4": lambda: np.ones((2, 3), ml_dtypes.int4),
    "of float64": lambda: np.ones((2, 3), np.float64),
    "of complex64": lambda: np.ones((2, 3), np.complex64),
    "of NaN": lambda: np.full((2, 3), np.nan, np.float32),
    "of -inf": lambda: np.full((2, 3), -np.inf, np.float32),
    "of inf": lambda: np.full((2, 3), np.inf, np.float32),
    "of JAX": lambda: jnp.asarray(np.ones((2, 3), np.float32)),
    "of Fortran": lambda: np.ones((3, 2), np.float32).T,
    "of no stride": lambda: np.broadcast_to(np.float32(1.0), (2, 3)),
    "a shape": lambda: jax.ShapeDtypeStruct((2, 3), np.float32),
    "a huge shape": lambda: jax.ShapeDtypeStruct((2**20, 2**20), np.float32),
    "keys": lambda: jax.random.split(jax.random.key(0), 2),
    "raw key": lambda: np.zeros(2, np.uint32),
}
VALUES = NUMBERS | TEXTS | CONTAINERS | OBJECTS | LEAVES


def _fail(*args, **kwargs):
    raise RuntimeError("an error of the user's own function")


# What a function, a loss, a model or a rule of names may return.
RETURNED = {
    "None": lambda: None,
    "True": lambda: True,
    "text": lambda: "loss",
    "0.5": lambda: 0.5,
    "nan": lambda: math.nan,
    "1j": lambda: 1j,
    "three": lambda: (1.0, 2.0, 3.0),
    "a pair": lambda: (jnp.float32(1.0), None),
    "{}": dict,
    "generator": lambda: (i for i in range(2)),
    "two bools": lambda: np.ones(2, bool),
    "vector": lambda: jnp.asarray(np.ones(2, np.float32)),
    "integer": lambda: np.int32(1),
    "object array": lambda: np.array([object()]),
    "an array of text": lambda: np.array("loss"),
    "function": lambda: _fail,
    "a shape": lambda: jax.ShapeDtypeStruct((), np.float32),
}
FUNCTIONS = {
    f"returns {name}": lambda make=make: lambda *args, **kwargs: make()
    for name, make in RETURNED.items()
} | {"raises": lambda: _fail}


def trees_near(tree):
    """Returns trees that differ from one of arrays in a leaf or in what holds them."""

    def with_leaf(make):
        return {**tree, "in": {**tree["in"], "kernel": make()}}

    def mapped(fn):
        return jax.tree.map(fn, tree)

    with_leaves = {
        f"leaf {name}": lambda make=make: with_leaf(make)
        for name, make in (VALUES | FUNCTIONS).items()
    }
    return with_leaves | {
        "lacks a leaf": lambda: {**tree, "in": {}},
        "lacks a part": lambda: {"in": tree["in"]},
        "has another leaf": lambda: {**tree, "more": np.ones((2, 3), np.float32)},
        "has another name": lambda: {"In": tree["in"], "out": tree["out"]},
        "a list": lambda: list(tree.values()),
        "its leaves": lambda: jax.tree.leaves(tree),
        "in a tuple": lambda: (tree,),
        "turned": lambda: mapped(np.transpose),
        "another shape": lambda: mapped(
            lambda leaf: np.ones((2, *leaf.shape), leaf.dtype)
        ),
        "of one array": lambda: jax.tree.leaves(tree)[0],
        "of shapes": lambda: mapped(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        ),
        "of floats": lambda: mapped(lambda leaf: np.asarray(leaf, np.float32)),
        "of bools": lambda: mapped(lambda leaf: np.asarray(leaf, bool)),
        "of NaN": lambda: mapped(lambda leaf: np.full(leaf.shape, np.nan, np.float32)),
        "of zeros": lambda: mapped(np.zeros_like),
        "of functions": lambda: mapped(lambda leaf: _fail),
    }


def values_near(valid):
    """Returns hostile values for an argument of which a valid one is known, by name."""
    values = dict(VALUES)
    if _is_tree_of_arrays(valid):
        values |= trees_near(valid)
    if isinstance(valid, dict) or isinstance(valid, (list, tuple)) and valid:
        values |= _containers_near(valid)
    if callable(valid):
        # A class is a function, and what it says of its arguments its own affair.
        del values["class"]
        values |= FUNCTIONS
    return values


def _is_tree_of_arrays(valid):
    return (
        isinstance(valid, dict)
        and {"in", "out"} <= {*valid}
        and all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(valid))
    )


def _containers_near(valid):
    """Returns containers that differ from a valid one in what they hold."""
    if isinstance(valid, dict):
        return {
            f"holds {name}": lambda make=make: dict.fromkeys(valid, make())
            for name, make in VALUES.items()
        } | {"holds one more": lambda: {**valid, "more": next(iter(valid.values()))}}
    if hasattr(valid, "_replace"):
        return {
            f"{field} is {name}": lambda field=field, make=make: valid._replace(
                **{field: make()}
            )
            for field, value in valid._asdict().items()
            for name, make in VALUES.items()
            # Of a function in a field, what it returns and raises is its own affair.
            if not (callable(value) and callable(make()))
        }
    return {
        f"holds {name}": lambda make=make: [make()] for name, make in VALUES.items()
    }
