"""Tells which equation reads each leaf first, and so a network's layers by depth."""

from collections.abc import Iterable

from jax.extend.core import Jaxpr, Literal


def first_uses(jaxpr: Jaxpr, paths: Iterable[str]) -> dict[str, int]:
    """Returns the number of the first equation that reads each leaf.

    A leaf that is read inside of a call is read by the equation that calls.

    Args:
        jaxpr: a program whose first inputs are the leaves.
        paths: the names of the leaves, in the order of these inputs.

    Returns:
        The numbers by path, in the order of reading, where leaves that one equation
        reads stand in the order of its operands; without the leaves that no equation
        reads.

    Example:
        >>> import jax
        >>> def apply(params, x):
        ...     return (x * params["z"] + 1.0) / params["a"]
        >>> leaves = {"a": 1.0, "unused": 2.0, "z": 3.0}
        >>> first_uses(jax.make_jaxpr(apply)(leaves, 4.0).jaxpr, ["a", "unused", "z"])
        {'z': 0, 'a': 2}
    """
    path_of = dict(zip(jaxpr.invars, paths, strict=False))
    numbers: dict[str, int] = {}
    for number, eqn in enumerate(jaxpr.eqns):
        for atom in eqn.invars:
            # A literal cannot be hashed, so it is never looked up.
            if not isinstance(atom, Literal) and atom in path_of:
                numbers.setdefault(path_of[atom], number)
    return numbers
