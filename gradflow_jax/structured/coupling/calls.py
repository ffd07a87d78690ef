"""Rules of coupling for primitives that call other programs."""

from collections.abc import Sequence
from typing import Any

from gradflow_jax.programs.calls import CALLS, called, opened, scan_numbers
from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling.program import Dims, Equation, Frame, Source

# How far rules of differentiation that call further ones are followed.
_DEEPEST = 3


def call(at: Equation) -> list[Dims]:
    """The callee's equations, as if they stood here."""
    jaxpr, consts = opened(called(at.params))
    outer = {
        variable: (at.frame, atom)
        for variable, atom in zip(jaxpr.invars, at.eqn.invars, strict=True)
    }
    callers = (*at.frame.callers, at.eqn)
    frame = Frame(jaxpr, consts, at.frame.repeats, outer, True, callers)
    at.frame.children[at.index] = (frame,)
    results = at.coupling.run(frame, at.operands, _sources(at))
    _set_sources(at, [frame.source_of(atom) for atom in jaxpr.outvars])
    return results


def custom_jvp(at: Equation) -> list[Dims]:
    """The function's equations, and those of its own rule of differentiation.

    The rule usually calls the function again: there the axes are the same.
    """
    results = call(at)
    (frame,) = at.frame.children[at.index]
    coupling, text = at.coupling, str(at.params["call_jaxpr"])
    if text in coupling.custom:
        frame.shared, operands = coupling.custom[text]
        for one, other in zip(operands, at.operands, strict=True):
            _unite_all(at, one, other)
        return results
    own = None if len(coupling.custom) >= _DEEPEST else _own_rule(at)
    if own is None:
        coupling.dropped.add(str(at.params.get("name", "custom_jvp_call")))
        return results
    marks, products = len(coupling.marks), len(coupling.products)
    coupling.custom[text] = (frame, at.operands)
    tangents = Frame(*own, at.frame.repeats)
    data = [Source(data=True)] * 2 * len(at.operands)
    found = coupling.run(tangents, [*at.operands] * 2, data)
    for one, other in zip([*results, *results], found, strict=True):
        _unite_all(at, one, other)
    frame.tangents = tangents
    del coupling.custom[text], coupling.marks[marks:], coupling.products[products:]
    return results


def _own_rule(at: Equation) -> tuple[Any, Sequence[Any]] | None:
    """Returns a function's rule of differentiation as a program, if it is one."""
    traced = at.params["jvp_jaxpr_fun"].call_wrapped(*[False] * len(at.operands))
    jaxpr, consts, zeros = traced
    whole = len(consts) == len(jaxpr.constvars) and not any(zeros)
    return (jaxpr, consts) if whole and not at.params["num_consts"] else None


def custom_vjp(at: Equation) -> list[Dims]:
    """The function's equations; its own rule is lost when the cut program is run."""
    at.coupling.dropped.add(at.eqn.primitive.name)
    return call(at)


def _sources(at: Equation) -> list[Source]:
    return [at.frame.source_of(atom) for atom in at.eqn.invars]


def _set_sources(at: Equation, sources: Sequence[Source]) -> None:
    at.frame.sources.update(zip(at.eqn.outvars, sources, strict=True))


def _unite_all(at: Equation, one: Dims, other: Dims) -> None:
    for mine, theirs in zip(one, other, strict=True):
        at.unite(mine, theirs)


def _run_until_stable(
    at: Equation, frame: Frame, dims: list[Dims], sources: list[Source], carries: range
) -> list[Dims]:
    """Runs a loop's body; what it carries depends on all that it carried before."""
    while True:
        marks, products = len(at.coupling.marks), len(at.coupling.products)
        results = at.coupling.run(frame, dims, sources)
        grown = list(sources)
        for position, atom in zip(carries, frame.jaxpr.outvars, strict=False):
            grown[position] = sources[position] | frame.source_of(atom)
        if grown == sources:
            return results
        sources = grown
        del at.coupling.marks[marks:], at.coupling.products[products:]


def scan(at: Equation) -> list[Dims]:
    """Carries keep their axes; all steps share the axes of what they read and write."""
    consts, carries = scan_numbers(at.params)
    jaxpr, values = opened(at.params["jaxpr"])
    frame = Frame(jaxpr, values, at.frame.repeats * at.params["length"])
    at.frame.children[at.index] = (frame,)
    text = "it counts the steps of a scan"
    dims = list(at.operands)
    for position in range(consts + carries, len(dims)):
        steps, *rest = dims[position]
        at.pin([steps], text)
        dims[position] = tuple(rest)
    span = range(consts, consts + carries)
    results = _run_until_stable(at, frame, dims, _sources(at), span)
    for position, result in zip(span, results, strict=False):
        _unite_all(at, dims[position], result)
    _set_sources(at, [frame.source_of(atom) for atom in jaxpr.outvars])
    (steps,) = at.pinned([at.params["length"]], text)
    return [*results[:carries], *((steps, *own) for own in results[carries:])]


def while_(at: Equation) -> list[Dims]:
    """Carries keep their axes."""
    conds, bodies = at.params["cond_nconsts"], at.params["body_nconsts"]
    cond = Frame(*opened(at.params["cond_jaxpr"]), at.frame.repeats)
    body = Frame(*opened(at.params["body_jaxpr"]), at.frame.repeats)
    at.frame.children[at.index] = (cond, body)
    sources = _sources(at)
    carried = at.operands[conds + bodies :]
    results = _run_until_stable(
        at,
        body,
        [*at.operands[conds : conds + bodies], *carried],
        sources[conds:],
        range(bodies, bodies + len(carried)),
    )
    found = [body.source_of(atom) for atom in body.jaxpr.outvars]
    at.coupling.run(cond, [*at.operands[:conds], *carried], [*sources[:conds], *found])
    for one, other in zip(carried, results, strict=True):
        _unite_all(at, one, other)
    _set_sources(at, found)
    return results


def cond(at: Equation) -> list[Dims]:
    """All branches return the same axes."""
    sources = _sources(at)[1:]
    frames, first = [], None
    found = [Source()] * len(at.eqn.outvars)
    for branch in at.params["branches"]:
        frame = Frame(*opened(branch), at.frame.repeats)
        results = at.coupling.run(frame, at.operands[1:], sources)
        for position, atom in enumerate(frame.jaxpr.outvars):
            found[position] |= frame.source_of(atom)
        if first is None:
            first = results
        else:
            for one, other in zip(first, results, strict=True):
                _unite_all(at, one, other)
        frames.append(frame)
    at.frame.children[at.index] = tuple(frames)
    chosen = at.frame.source_of(at.eqn.invars[0])
    _set_sources(at, [source | chosen for source in found])
    return first or []


COUPLING_RULES.fill(
    {
        **dict.fromkeys(CALLS, call),
        "custom_jvp_call": custom_jvp,
        **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr"), custom_vjp),
        "scan": scan,
        "while": while_,
        "cond": cond,
    }
)
