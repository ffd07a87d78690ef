"""Rules of coupling for primitives that call other programs."""

from collections.abc import Sequence
from typing import Any

from gradflow_jax.programs.calls import CALLS, callee_of, open_program, scan_numbers
from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling.frames import Dims, Frame, Source
from gradflow_jax.structured.coupling.program import Equation

# Rules of differentiation that call further ones are followed so far and no farther.
_DEEPEST = 3


def call(eqn: Equation) -> list[Dims]:
    """The callee's equations, as if they stood here."""
    jaxpr, consts = open_program(callee_of(eqn.params))
    outer = {
        variable: (eqn.frame, atom)
        for variable, atom in zip(jaxpr.invars, eqn.source.invars, strict=True)
    }
    callers = (*eqn.frame.callers, eqn.source)
    frame = Frame(jaxpr, consts, eqn.frame.repeats, outer, True, callers)
    eqn.frame.children[eqn.index] = (frame,)
    results = eqn.coupling.run(frame, eqn.operands, _sources(eqn))
    _set_sources(eqn, [frame.source_of(atom) for atom in jaxpr.outvars])
    return results


def custom_jvp(eqn: Equation) -> list[Dims]:
    """The function's equations, and those of its own rule of differentiation.

    The rule usually calls the function again: there the axes are the same.
    """
    results = call(eqn)
    (frame,) = eqn.frame.children[eqn.index]
    coupling, text = eqn.coupling, str(eqn.params["call_jaxpr"])
    if text in coupling.custom:
        frame.shared, operands = coupling.custom[text]
        for first, second in zip(operands, eqn.operands, strict=True):
            _unite_all(eqn, first, second)
        return results
    rule = None if len(coupling.custom) >= _DEEPEST else _own_rule(eqn)
    if rule is None:
        coupling.dropped.add(str(eqn.params.get("name", "custom_jvp_call")))
        return results
    marks, products = len(coupling.marks), len(coupling.products)
    coupling.custom[text] = (frame, eqn.operands)
    tangents = Frame(*rule, eqn.frame.repeats)
    data = [Source(data=True)] * 2 * len(eqn.operands)
    tangents_dims = coupling.run(tangents, [*eqn.operands] * 2, data)
    for first, second in zip([*results, *results], tangents_dims, strict=True):
        _unite_all(eqn, first, second)
    frame.tangents = tangents
    del coupling.custom[text], coupling.marks[marks:], coupling.products[products:]
    return results


def _own_rule(eqn: Equation) -> tuple[Any, Sequence[Any]] | None:
    """Returns a function's rule of differentiation as a program, if it is one."""
    traced = eqn.params["jvp_jaxpr_fun"].call_wrapped(*[False] * len(eqn.operands))
    jaxpr, consts, zeros = traced
    whole = len(consts) == len(jaxpr.constvars) and not any(zeros)
    return (jaxpr, consts) if whole and not eqn.params["num_consts"] else None


def custom_vjp(eqn: Equation) -> list[Dims]:
    """The function's equations; its own rule is lost when the cut program is run."""
    eqn.coupling.dropped.add(eqn.source.primitive.name)
    return call(eqn)


def _sources(eqn: Equation) -> list[Source]:
    return [eqn.frame.source_of(atom) for atom in eqn.source.invars]


def _set_sources(eqn: Equation, sources: Sequence[Source]) -> None:
    eqn.frame.sources.update(zip(eqn.source.outvars, sources, strict=True))


def _unite_all(eqn: Equation, first_dims: Dims, second_dims: Dims) -> None:
    for first_axis, second_axis in zip(first_dims, second_dims, strict=True):
        eqn.unite(first_axis, second_axis)


def _run_until_stable(
    eqn: Equation, frame: Frame, dims: list[Dims], sources: list[Source], carries: range
) -> list[Dims]:
    """Runs a loop's body; what it carries depends on all that it carried before."""
    while True:
        marks, products = len(eqn.coupling.marks), len(eqn.coupling.products)
        results = eqn.coupling.run(frame, dims, sources)
        grown = list(sources)
        for position, atom in zip(carries, frame.jaxpr.outvars, strict=False):
            grown[position] = sources[position] | frame.source_of(atom)
        if grown == sources:
            return results
        sources = grown
        del eqn.coupling.marks[marks:], eqn.coupling.products[products:]


def scan(eqn: Equation) -> list[Dims]:
    """Carries keep their axes; all steps share the axes of what they read and write."""
    consts, carries = scan_numbers(eqn.params)
    jaxpr, values = open_program(eqn.params["jaxpr"])
    frame = Frame(jaxpr, values, eqn.frame.repeats * eqn.params["length"])
    eqn.frame.children[eqn.index] = (frame,)
    text = "it counts the steps of a scan"
    dims = list(eqn.operands)
    for position in range(consts + carries, len(dims)):
        steps, *inner = dims[position]
        eqn.pin([steps], text)
        dims[position] = tuple(inner)
    span = range(consts, consts + carries)
    results = _run_until_stable(eqn, frame, dims, _sources(eqn), span)
    for position, result in zip(span, results, strict=False):
        _unite_all(eqn, dims[position], result)
    _set_sources(eqn, [frame.source_of(atom) for atom in jaxpr.outvars])
    (steps,) = eqn.new_pinned([eqn.params["length"]], text)
    return [
        *results[:carries],
        *((steps, *dims_of_step) for dims_of_step in results[carries:]),
    ]


def while_(eqn: Equation) -> list[Dims]:
    """Carries keep their axes."""
    conds, bodies = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond = Frame(*open_program(eqn.params["cond_jaxpr"]), eqn.frame.repeats)
    body = Frame(*open_program(eqn.params["body_jaxpr"]), eqn.frame.repeats)
    eqn.frame.children[eqn.index] = (cond, body)
    sources = _sources(eqn)
    carried = eqn.operands[conds + bodies :]
    results = _run_until_stable(
        eqn,
        body,
        [*eqn.operands[conds : conds + bodies], *carried],
        sources[conds:],
        range(bodies, bodies + len(carried)),
    )
    sources_of_results = [body.source_of(atom) for atom in body.jaxpr.outvars]
    eqn.coupling.run(
        cond, [*eqn.operands[:conds], *carried], [*sources[:conds], *sources_of_results]
    )
    for before, after in zip(carried, results, strict=True):
        _unite_all(eqn, before, after)
    _set_sources(eqn, sources_of_results)
    return results


def cond(eqn: Equation) -> list[Dims]:
    """All branches return the same axes."""
    sources = _sources(eqn)[1:]
    frames, first = [], None
    sources_of_results = [Source()] * len(eqn.source.outvars)
    for branch in eqn.params["branches"]:
        frame = Frame(*open_program(branch), eqn.frame.repeats)
        results = eqn.coupling.run(frame, eqn.operands[1:], sources)
        for position, atom in enumerate(frame.jaxpr.outvars):
            sources_of_results[position] |= frame.source_of(atom)
        if first is None:
            first = results
        else:
            for first_dims, branch_dims in zip(first, results, strict=True):
                _unite_all(eqn, first_dims, branch_dims)
        frames.append(frame)
    eqn.frame.children[eqn.index] = tuple(frames)
    chosen = eqn.frame.source_of(eqn.source.invars[0])
    _set_sources(eqn, [source | chosen for source in sources_of_results])
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
