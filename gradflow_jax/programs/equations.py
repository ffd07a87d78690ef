"""Equations in words, with the line of the user's code that they came from."""

import os
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Literal

# The folder of this package tells it; its name would not, since a checkout has it too.
_LIBRARIES = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    *(f"{os.sep}{name}{os.sep}" for name in ("jax", "flax", "optax")),
)


def describe(eqn: JaxprEqn, callers: Sequence[JaxprEqn] = ()) -> str:
    """Returns an equation in short, with the line of the user's code it came from.

    Args:
        eqn: the equation.
        callers: the calls of jitted functions that it stands in, outermost first. What
            was traced once is used again, so only their lines are of this place.
    """
    operands = ", ".join(_short(atom) for atom in eqn.invars)
    text = f"{eqn.primitive.name} {operands}"
    lines = [line for line in map(_line, (*callers, eqn)) if line]
    return f"{text} at {lines[0]}" if lines else text


def place_of_error(error: Exception) -> str:
    """Returns the innermost line of the user's code that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        f"{os.path.basename(frame.filename)}:{frame.lineno}"
        for frame in frames
        if not any(name in frame.filename for name in _LIBRARIES)
    ]
    return lines[-1] if lines else "an unknown line"


def _short(atom: Any) -> str:
    if isinstance(atom, Literal) and not np.shape(atom.val):
        # Some versions of JAX wrap the number in an array of their own.
        return str(np.asarray(atom.val))
    return atom.aval.str_short(short_dtypes=True)


def _line(eqn: JaxprEqn) -> str:
    stack = eqn.source_info.traceback
    for frame in stack.frames if stack else ():
        if not any(name in frame.file_name for name in _LIBRARIES):
            return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
    return ""
