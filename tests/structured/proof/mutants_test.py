"""Bugs planted one at a time: the checks of the other tests must notice each.

A mutant is noticed by an error, by a cut model that computes something else than the
masked one, or by other families than there are.
"""

from functools import cache, partial

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, nn

import gradflow_jax as gf
from gradflow_jax.programs import comparing
from gradflow_jax.programs.rules import COUPLING_RULES, REBINDING_RULES, VALUE_RULES
from gradflow_jax.structured.coupling import (
    axes,
    contractions,
    reshaping,
    shapes,
    tracing,
    unification,
)
from gradflow_jax.structured.proof import contractions as proof_contractions
from gradflow_jax.structured.proof import removed_values, rules, walk
from gradflow_jax.structured.running.cut_program import Plan
from tests.structured.zoo import plain as zoo_plain
from tests.structured.zoo.plain import GATE, Case, D, dense, fill

MODELS = dict(zoo_plain.ZOO)


def middle(name, function, before=7, after=7, **more):
    """Adds a model: a dense layer, the function, a dense layer."""

    def apply(v, x):
        return dense(v["head"], function(v, dense(v["stem"], x)))

    def case():
        shapes = {"stem": D(5, before), "head": D(after, 3), "input": (3, 5)} | more
        variables = fill(shapes, name)
        return Case(apply, variables, (variables.pop("input"),))

    MODELS[name] = case


def scanned(v, h):
    def body(carry, _):
        return (carry[1], nn.sigmoid(carry[0])), None

    return lax.scan(body, (h, h), None, length=2)[0][0]


# fmt: off
LATE, TAKEN = GATE - GATE[0], np.array([2, 0, 6, 6, 1])
middle("joined", lambda v, h: jnp.concatenate([h, dense(v["a"], h)], 1),
       after=14, a=D(7, 7))
middle("taken", lambda v, h: jnp.take(jnp.tanh(h), TAKEN, 1), after=5)
middle("padded", lambda v, h: jnp.pad(jnp.tanh(h), ((0, 0), (1, 2))), after=10)
middle("first", lambda v, h: jnp.tanh(h[:, 2:5]), after=3)
middle("largest", lambda v, h: (-jnp.abs(h)).max(1, keepdims=True), after=1)
middle("gated", lambda v, h: nn.sigmoid(h) * GATE)
middle("shifted", lambda v, h: jnp.tanh(h) + LATE)
middle("chosen", lambda v, h: jnp.where(v["a"] > -9, 1 + h, h), a=())
middle("branches", lambda v, h: lax.cond(v["a"] > -9, nn.sigmoid, jnp.tanh, h), a=())
middle("turned", lambda v, h: lax.cond(v["a"] > -9, lambda h: h[:, ::-1], jnp.tanh, h),
       a=())
middle("repeated", lambda v, h: lax.fori_loop(0, 2, lambda i, h: h[:, ::-1], h))
middle("looped", lambda v, h: lax.while_loop(
    lambda c: c[0] < v["a"], lambda c: (c[0] + 1, c[1][:, ::-1]), (-9., h))[1], a=())
middle("scanned", scanned)
middle("counted", lambda v, h: jnp.tanh(h) * jnp.sin(jnp.arange(7.0)))
middle("moved", lambda v, h: jnp.tanh(h).reshape(3, 3, 3).transpose(1, 2, 0).reshape(
    9, 3).T, before=9, after=9)
# fmt: on


def coupled(change, *names):
    """Plants another rule of coupling, made of the rule there is."""

    def plant(patch):
        for name in names:
            patch.setitem(COUPLING_RULES, name, partial(change, COUPLING_RULES[name]))

    return plant


def altered(**changes):
    """Makes a rule see other parameters than there are."""

    def mutated(rule, at):
        at.params = {k: changes.get(k, lambda v: v)(v) for k, v in at.params.items()}
        return rule(at)

    return mutated


def forgetful(rule, at):
    """Makes a rule unite nothing."""
    at.unite = lambda one, other: None
    return rule(at)


def reversed_(rule, at):
    """Makes a rule see its operands in reverse."""
    at.operands = at.operands[::-1]
    return rule(at)


def known(change, *names):
    """Plants another rule of the proof, made of the rule there is."""

    def plant(patch):
        for name in names:
            patch.setitem(VALUE_RULES, name, partial(change, VALUE_RULES[name]))

    return plant


def replaced(owner, name, change):
    """Plants another function, made of the function there is."""

    def plant(patch):
        patch.setattr(owner, name, partial(change, getattr(owner, name)))

    return plant


def removed(name):
    return lambda patch: patch.delitem(REBINDING_RULES, name)


def by_columns(places, axis, root):
    found = places(axis, root)
    if axes.find(axis).form != "product":
        return found
    sizes = [part.size for part in axes.find(axis).parts[::-1]]
    return [labels.reshape(sizes).T.ravel() for labels in found]


def as_a_sum(rule, step):
    entries = enumerate(step.operands[0])
    return [tuple(e for i, e in entries if i not in step.params["axes"])]


def zero_times(combined, step, operands):
    return 0.0 if step.source.primitive.name == "mul" else combined(step, operands)


def first_case(combined, step, operands):
    chosen = step.source.primitive.name == "select_n"
    return operands[1] if chosen else combined(step, operands)


def once(fixpoint, step, frame, entries, carries):
    walk._enter(step, frame, entries)
    return walk._results(step, frame)


ELEMENTWISE = [
    name for name, rule in COUPLING_RULES.items() if rule is gf.structured.elementwise
]
NOTHING = lambda *_, **__: None  # noqa: E731
# What is planted, how it is noticed, and in which model.
# fmt: off
MUTANTS = {
    # Of the coupling.
    "reversal is identity": (
        coupled(lambda rule, at: at.operands, "rev"), "numbers", "flip_add"),
    "elementwise unites nothing": (
        coupled(forgetful, *ELEMENTWISE), "error", "swiglu"),
    "joined in reverse": (coupled(reversed_, "concatenate"), "numbers", "joined"),
    "contraction unites nothing": (
        coupled(forgetful, "dot_general"), "error", "mlp_relu"),
    "permutation inverted": (
        coupled(altered(permutation=np.argsort), "transpose"), "numbers", "moved"),
    "groups ignored": (
        coupled(altered(feature_group_count=lambda n: 1), "conv_general_dilated"),
        "error", "grouped_conv"),
    "parts in reverse": (
        coupled(lambda rule, at: rule(at)[::-1], "split"),
        "numbers", "fused_qkv_split"),
    "padded at the other end": (
        coupled(altered(padding_config=lambda c: [(b, a, n) for a, b, n in c]), "pad"),
        "numbers", "padded"),
    "scans carry anything": (coupled(forgetful, "scan"), "numbers", "repeated"),
    "loops carry anything": (coupled(forgetful, "while"), "numbers", "looped"),
    "branches return anything": (coupled(forgetful, "cond"), "numbers", "turned"),
    "slices take the first": (
        replaced(shapes, "pick",
                 lambda pick, at, axis, indices: pick(at, axis, range(len(indices)))),
        "numbers", "first"),
    "taken in order": (
        replaced(contractions, "pick",
                 lambda pick, at, axis, indices: pick(at, axis, sorted(indices))),
        "numbers", "taken"),
    "factors in reverse": (
        replaced(reshaping, "factor", lambda factor, axis, sizes, blame:
                 factor(axis, sizes[::-1], blame)[::-1]),
        "numbers", "attention"),
    "merged in reverse": (
        replaced(unification, "multiply", lambda multiply, dims: multiply(
            [*dims][::-1])), "numbers", "conv_flatten_dense"),
    "products counted by columns": (
        replaced(axes, "places", by_columns), "numbers", "attention"),
    "nothing is united": (
        replaced(unification, "unite", NOTHING), "error", "mlp_relu"),
    "outputs are cut": (
        lambda patch: patch.setattr(tracing.Traced, "_pin_results", NOTHING),
        "families", "mlp_relu"),
    # Of the proof.
    "all is proved": (replaced(walk, "run", NOTHING), "numbers", "mlp_sigmoid"),
    "constants may leak": (
        replaced(proof_contractions, "_sum_over", NOTHING), "numbers", "mlp_sigmoid"),
    "activations of zero are zero": (
        replaced(rules, "evaluate", lambda *_: 0.0), "numbers", "mlp_sigmoid"),
    "maximum is a sum": (known(as_a_sum, "reduce_max"), "numbers", "largest"),
    "products are zero": (
        replaced(rules, "_combine", zero_times), "numbers", "gated"),
    "the first is chosen": (
        replaced(rules, "_combine", first_case), "numbers", "chosen"),
    "the first branch is taken": (
        replaced(walk, "_join", lambda joined, one, other: one),
        "numbers", "branches"),
    "loops run once": (replaced(walk, "_fixpoint", once), "numbers", "scanned"),
    "constants are uniform": (
        replaced(removed_values, "_number",
                 lambda number, value: float(np.ravel(value)[0])),
        "numbers", "shifted"),
    # Of the cut.
    "counted anew": (
        lambda patch: patch.setitem(
            REBINDING_RULES, "iota", REBINDING_RULES["broadcast_in_dim"]),
        "numbers", "counted"),
    "slices stay in place": (removed("slice"), "error", "first"),
    "groups stay as many": (removed("conv_general_dilated"), "error", "grouped_conv"),
    "constants stay whole": (
        lambda patch: patch.setattr(Plan, "take", lambda self, value, dims: value),
        "error", "const_gate"),
    "every program is the same": (
        replaced(comparing, "difference", NOTHING), "numbers", "rms_norm"),
}
# fmt: on


@cache
def case_of(name):
    return MODELS[name]()


def outcome(name):
    """Returns a model's families and how wrong a cut of them all is."""
    apply, variables, inputs = case_of(name)
    units = gf.find_units(apply, variables, *inputs)
    rng = np.random.default_rng(2)
    keep = {f.name: rng.permutation(f.size) >= (f.size + 2) // 3 for f in units}
    error = gf.structured.cut_error(variables, units, keep, *inputs)
    return {(family.name, family.size) for family in units}, error


clean = cache(outcome)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_noticed(name, monkeypatch):
    plant, noticed, model = MUTANTS[name]
    families, error = clean(model)
    assert error < 1e-5
    plant(monkeypatch)
    try:
        found, error = outcome(model)
    except Exception:
        assert noticed == "error"
    else:
        others = "families" if found != families else "nothing"
        assert noticed == ("numbers" if not error < 1e-4 else others)
