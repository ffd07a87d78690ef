"""Proof that removing units is masking them: constants pushed through a program.

Removing a unit is exact where every sum over the removed indices adds zeros alone.
So the proof walks the equations that touch a family, derives what the removed slices
hold (`values`), and refuses at the first equation where more than zeros would be
summed, where a maximum or a softmax would see the slice, or where it is not finite.
It assumes that the values kept are finite and that no kept denominator is zero.
"""

from collections.abc import Sequence

from gradflow_jax.programs.calls import CALLS, scan_numbers
from gradflow_jax.programs.rules import COUPLING_RULES, VALUE_RULES
from gradflow_jax.structured.coupling.frames import Frame
from gradflow_jax.structured.coupling.pointwise import elementwise as coupled_by_index
from gradflow_jax.structured.proof.equation import ProofEquation, Touched, ValueRule
from gradflow_jax.structured.proof.removed_values import UNKNOWN, Entries, Slices, join
from gradflow_jax.structured.proof.rules import elementwise, generic


def run(slices: Slices, frame: Frame, touched: Touched) -> None:
    """Walks the equations of a frame that touch the family.

    Raises:
        Refusal: at the first equation where removing is not masking.
    """
    for index in touched(frame, slices.removed):
        step = ProofEquation(slices, frame, index, touched)
        results = _rule_of(step.source.primitive.name)(step)
        for variable, entries in zip(step.source.outvars, results, strict=True):
            slices.set(frame, variable, entries)


def _rule_of(name: str) -> ValueRule:
    """Returns a primitive's rule; one that a user said is elementwise is evaluated."""
    if name not in VALUE_RULES and COUPLING_RULES.get(name) is coupled_by_index:
        return elementwise
    return VALUE_RULES.get(name, generic)


def _enter(eqn: ProofEquation, frame: Frame, values: Sequence[Entries]) -> bool:
    """Runs a called frame; says whether what it is given was news."""
    news = [
        eqn.slices.set(frame, variable, entries)
        for variable, entries in zip(frame.jaxpr.invars, values, strict=True)
    ]
    run(eqn.slices, frame, eqn.equations_touching)
    return any(news)


def _results(eqn: ProofEquation, frame: Frame) -> list[Entries]:
    return [eqn.slices.get(frame, atom) for atom in frame.jaxpr.outvars]


def _join(first: Entries, second: Entries) -> Entries:
    return tuple(
        None
        if a is None and b is None
        else join([UNKNOWN if v is None else v for v in (a, b)])
        for a, b in zip(first, second, strict=True)
    )


def _call(eqn: ProofEquation) -> list[Entries]:
    (frame,) = eqn.frame.children[eqn.index]
    _enter(eqn, frame, eqn.operands)
    return _results(eqn, frame)


def _fixpoint(
    eqn: ProofEquation, frame: Frame, values: list[Entries], carries: range
) -> list[Entries]:
    """Runs a loop's body until what it carries no longer changes."""
    while True:
        _enter(eqn, frame, values)
        results = _results(eqn, frame)
        met = list(values)
        for position, result in zip(carries, results, strict=False):
            met[position] = _join(values[position], result)
        if met == values:
            return results
        values = met


def _scan(eqn: ProofEquation) -> list[Entries]:
    consts, carries = scan_numbers(eqn.params)
    (frame,) = eqn.frame.children[eqn.index]
    values = [
        entries if position < consts + carries else entries[1:]
        for position, entries in enumerate(eqn.operands)
    ]
    span = range(consts, consts + carries)
    results = _fixpoint(eqn, frame, values, span)
    return [*results[:carries], *((None, *inner) for inner in results[carries:])]


def _while(eqn: ProofEquation) -> list[Entries]:
    conds, bodies = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond, body = eqn.frame.children[eqn.index]
    carried = eqn.operands[conds + bodies :]
    values = [*eqn.operands[conds : conds + bodies], *carried]
    span = range(bodies, len(values))
    results = _fixpoint(eqn, body, values, span)
    results = [_join(a, b) for a, b in zip(carried, results, strict=True)]
    _enter(eqn, cond, [*eqn.operands[:conds], *results])
    return results


def _cond(eqn: ProofEquation) -> list[Entries]:
    joined: list[Entries] | None = None
    for frame in eqn.frame.children[eqn.index]:
        _enter(eqn, frame, eqn.operands[1:])
        results = _results(eqn, frame)
        if joined is not None:
            results = [_join(a, b) for a, b in zip(joined, results, strict=True)]
        joined = results
    return joined or []


VALUE_RULES.fill(
    {
        **dict.fromkeys(CALLS, _call),
        "scan": _scan,
        "while": _while,
        "cond": _cond,
    }
)
