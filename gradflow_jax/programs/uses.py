"""Tells where each leaf meets the model's inputs first, and so a network's layers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.extend.core import Jaxpr, Literal

from gradflow_jax.programs.calls import callee_of, open_program, scan_numbers

# What a value is made of: the leaves by number, or the model's inputs, with or without
# leaves (None). A constant is made of nothing.
_Parts = frozenset[int] | None
_CONSTANT: _Parts = frozenset()


def first_uses(jaxpr: Jaxpr, paths: Iterable[str]) -> dict[str, int]:
    """Returns the number of the equation at which each leaf meets the inputs first.

    A leaf is followed through casts, reshapes and whatever else has no other data,
    also together with other leaves, and into calls, loops and branches, whose equations
    are numbered as if they stood in the place of the call. So the order of the layers
    is the same in however many functions a program is wrapped.

    Args:
        jaxpr: a program whose first arguments are the leaves.
        paths: the names of the leaves, in the order of these arguments.

    Returns:
        The numbers by path, in rising order; leaves of one number meet the inputs in
        one equation. Leaves that are read and never meet them come last, with one
        number; those that no equation reads are left out.

    Example:
        >>> import jax
        >>> def apply(params, x):
        ...     return (x * params["z"] + 1.0) / params["a"]
        >>> leaves = {"a": 1.0, "unused": 2.0, "z": 3.0}
        >>> first_uses(jax.make_jaxpr(apply)(leaves, 4.0).jaxpr, ["a", "unused", "z"])
        {'z': 0, 'a': 2}
    """
    names = list(paths)
    parts = [frozenset((leaf,)) for leaf in range(len(names))]
    walk = _Walk()
    walk.read(jaxpr, [*parts, *[None] * (len(jaxpr.invars) - len(names))])
    numbers = {**dict.fromkeys(walk.was_read, walk.count), **walk.met}
    # Leaves of one equation stay in the order of the arguments.
    in_order = sorted(numbers, key=lambda leaf: (numbers[leaf], leaf))
    return {names[leaf]: numbers[leaf] for leaf in in_order}


class _Walk:
    """Follows leaves through a program.

    Attributes:
        count: of the equations read so far.
        met: the number of the equation at which each leaf met the inputs.
        was_read: the leaves that some equation read.
    """

    def __init__(self) -> None:
        self.count = 0
        self.met: dict[int, int] = {}
        self.was_read: set[int] = set()

    def read(self, jaxpr: Jaxpr, operands: Sequence[_Parts]) -> list[_Parts]:
        """Reads a program and returns what its results are made of."""
        parts: dict[Any, _Parts] = dict(zip(jaxpr.invars, operands, strict=True))

        def look_up(atom: Any) -> _Parts:
            # A literal cannot be hashed, and it and a captured array are constants.
            return (
                _CONSTANT if isinstance(atom, Literal) else parts.get(atom, _CONSTANT)
            )

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [look_up(atom) for atom in eqn.invars])
            parts.update(zip(eqn.outvars, results, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[_Parts]) -> list[_Parts]:
        """Reads an equation and returns what its results are made of."""
        name = eqn.primitive.name
        self.was_read.update(*filter(None, operands))
        if name == "scan":
            return self._scan(eqn.params, operands)
        if name == "while":
            return self._while(eqn.params, operands)
        if name == "cond":
            branches = [open_program(branch)[0] for branch in eqn.params["branches"]]
            results = [self.read(branch, operands[1:]) for branch in branches]
            return [
                self._join([operands[0], *each]) for each in zip(*results, strict=True)
            ]
        callee = _callee_in_place(eqn)
        if callee is not None:
            return self.read(callee, operands)
        result = self._join(operands)
        self.count += 1
        return [result] * len(eqn.outvars)

    def _join(self, operands: Sequence[_Parts]) -> _Parts:
        """Returns what is made of all operands, and notes which leaves meet inputs."""
        leaves = frozenset[int]().union(*filter(None, operands))
        if None not in operands:
            return leaves
        for leaf in leaves:
            self.met.setdefault(leaf, self.count)
        return None

    def _scan(self, params: Any, operands: list[_Parts]) -> list[_Parts]:
        body, _ = open_program(params["jaxpr"])
        constants, carries = scan_numbers(params)
        before, start = operands[:constants], operands[constants : constants + carries]
        after = operands[constants + carries :]
        return self._loop(
            start, lambda walk, carry: walk.read(body, [*before, *carry, *after])
        )

    def _while(self, params: Any, operands: list[_Parts]) -> list[_Parts]:
        body, _ = open_program(params["body_jaxpr"])
        condition, _ = open_program(params["cond_jaxpr"])
        split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        of_condition, of_body = operands[: split[0]], operands[split[0] : split[1]]

        def turn(walk: "_Walk", carry: list[_Parts]) -> list[_Parts]:
            walk.read(condition, [*of_condition, *carry])
            return walk.read(body, [*of_body, *carry])

        return self._loop(operands[split[1] :], turn)

    def _loop(
        self,
        carry: list[_Parts],
        turn: Callable[["_Walk", list[_Parts]], list[_Parts]],
    ) -> list[_Parts]:
        """Reads a loop whose carries are what they are made of after any turn.

        Other walks find that out, which note nothing: what is constant before the loop,
        such as a first hidden state, holds inputs in all turns but the first.
        """
        while True:
            results = turn(_Walk(), carry)
            joined = [_Walk()._join(pair) for pair in zip(carry, results, strict=False)]
            if joined == carry:
                return turn(self, carry)
            carry = joined


def _callee_in_place(eqn: Any) -> Jaxpr | None:
    """Returns the program that a call runs on its own operands; None of no call."""
    try:
        callee, _ = open_program(callee_of(eqn.params))
    except KeyError:
        return None
    has_its_operands = len(callee.invars) == len(eqn.invars)
    return (
        callee if has_its_operands and len(callee.outvars) == len(eqn.outvars) else None
    )
