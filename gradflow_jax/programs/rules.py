"""What is known of each primitive: four tables, and the way for users to add to them.

The tables stand here, below every room that reads a program, and are empty until the
rooms fill them:

    COUPLING_RULES    which axes of operands and results go together
                      filled by structured/coupling
    VALUE_RULES       what a primitive makes of the constants that removed slices hold
                      filled by structured/proof
    REBINDING_RULES   how it is bound again at the widths that a cut leaves, where its
                      parameters hold shapes; filled by structured/running
    SIGNAL_RULES      where signals pass it
                      filled by connectivity

A primitive that a table lacks is treated with the caution of that table: coupling pins
every axis, the proof refuses where a removed slice would vanish, running binds the same
parameters again, connectivity lets every operand reach every result.
"""

from collections.abc import Callable, Mapping
from typing import Any

from gradflow_jax.trees.numbers import quote

Rule = Callable[..., Any]


class RuleTable(dict[str, Rule]):
    """Rules by the names of primitives.

    Attributes:
        built_in: the rules of the package, whatever users registered in their place.
        changes: how often users registered a rule or undid it: what was read from a
            program before may be read otherwise after.
    """

    def __init__(self) -> None:
        super().__init__()
        self.built_in: dict[str, Rule] = {}
        self.changes = 0

    def fill(self, rules: Mapping[str, Rule]) -> None:
        """Adds rules of the package; one that a user registered before stays."""
        self.built_in.update(rules)
        for primitive, rule in rules.items():
            self.setdefault(primitive, rule)

    def register(self, primitive: str, rule: Rule) -> Callable[[], None]:
        """Puts a user's rule in; returns a function that brings back what was there."""
        earlier = self.get(primitive)
        self[primitive] = rule
        self.changes += 1

        def undo() -> None:
            # The room may have been loaded, and have filled the table, in between.
            restored = earlier or self.built_in.get(primitive)
            self.changes += 1
            if restored is None:
                self.pop(primitive, None)
            else:
                self[primitive] = restored

        return undo


COUPLING_RULES = RuleTable()
VALUE_RULES = RuleTable()
REBINDING_RULES = RuleTable()
SIGNAL_RULES = RuleTable()


def register_rule(
    primitive: str,
    coupling: Rule,
    *,
    values: Rule | None = None,
    rebind: Rule | None = None,
    signals: Rule | None = None,
) -> Callable[[], None]:
    """Tells what is to be known of a primitive, so that models with it can be cut.

    Args:
        primitive: its name, as an error or `jax.make_jaxpr` prints it.
        coupling: how the axes of its results follow from those of its operands. It
            takes an equation, which has `params`, `operands` (a tuple of axes for
            each), `shapes` (of the results), `unite(axis, axis)`, `pin(axes, text)`
            and `pinned(shape, text)`, and returns a tuple of axes for each result.
            An axis that stands in an operand and in a result is carried; united axes
            lose the same indices. `gf.structured.elementwise` is the rule of
            primitives that compute index by index.
        values: what it makes of removed slices. It takes an equation, which has
            `operands` (for each a tuple with an entry an axis: the constant that the
            removed slice holds, or None where nothing is removed), `lost(position)`
            (for each axis of a result whether it loses indices) and
            `refuse(text)`, an exception to raise; it returns such a tuple for each
            result. None: an elementwise primitive is evaluated on the constants; of
            any other nothing is known, and nothing may be summed.
        rebind: how it is bound at the widths of a cut. It takes an equation, which has
            `params`, `result(position)` (its axes), `cut.shape(axes)` and
            `bind(operands, **changed)`, and its operands, and returns a list of
            results. None: the parameters stay.
        signals: where signals pass. It takes an equation of a jaxpr and a signal for
            each operand, with `nonzero` and `reached` (1.0 where a number can be
            other than zero, and where the input reaches it; `reached` None where it
            does not), and returns such a pair for each result. None: an elementwise
            primitive lets pass index by index; of any other every result depends on
            every operand.

    Returns:
        A function without arguments that undoes the registration.

    Raises:
        TypeError: at a name that is no text or a rule that cannot be called.

    Example:
        >>> import gradflow_jax as gf
        >>> def normalize(equation):  # works along the last axis, carries the others
        ...     (dims,) = equation.operands
        ...     equation.pin(dims[-1:], "it is normalized along this axis")
        ...     return [dims]
        >>> undo = gf.structured.register_rule("my_norm", normalize)
        >>> undo()
    """
    if not isinstance(primitive, str):
        raise TypeError(
            f"register_rule takes the name of a primitive, a str such as 'my_norm', "
            f"not {quote(primitive)}."
        )
    rules = {
        "coupling": (COUPLING_RULES, coupling),
        "values": (VALUE_RULES, values),
        "rebind": (REBINDING_RULES, rebind),
        "signals": (SIGNAL_RULES, signals),
    }
    for word, (_, rule) in rules.items():
        optional = rule is None and word != "coupling"
        if not optional and not callable(rule):
            raise TypeError(
                f"register_rule({primitive!r}): {word} is {quote(rule)}, not a "
                "function; "
                "gf.structured.elementwise is the coupling of primitives that compute "
                "index by index."
            )
    undo_each = [
        table.register(primitive, rule)
        for table, rule in rules.values()
        if rule is not None
    ]

    def undo() -> None:
        for undo_table in undo_each:
            undo_table()

    return undo
