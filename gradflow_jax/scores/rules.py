"""States each measure as a formula: a signed term per weight, and an outer function.

Each measure is a pair (term, outer), with the score of a set U of weights

    score(U) = outer(Σ_{i ∈ U} term_i)

A single weight is a set too. So the place of the absolute value, inside the sum (loss
preservation) or outside (Taylor), is written once, and a filter's score comes from
the signed terms, never from scores that have lost their sign.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from gradflow_jax.programs.parameters import params_of
from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.evaluation import Jitted, evaluate_then
from gradflow_jax.scores.losses import LossFn
from gradflow_jax.scores.normalization import (
    CHANNEL_MEASURES,
)
from gradflow_jax.trees import (
    ArrayTree,
    Params,
    Scores,
    aligned_leaves,
    check_floating,
    widen,
)
from gradflow_jax.trees.numbers import quote

Field = Literal["gradient", "hessian_gradient", "squared_gradient"]


class Rule(NamedTuple):
    """One measure's formula.

    Attributes:
        term: the signed term of each weight, a tree like params.
        outer: what is applied to the sum of terms over the weights of a set, which
            is an array of JAX or of NumPy.
        needs: the fields of `Derivatives` the term is made of, beside params.
        optional: fields that it is made of too, if they are there.
        alone: the score of each weight alone, where the terms are its squares and
            `outer` is their root: a square under- and overflows where it does not, in
            float32 below 1e-19 or so. None where outer(term) is as good.
    """

    term: Callable[[Derivatives], Scores]
    outer: Callable[[chex.Array], chex.Array]
    needs: tuple[Field, ...]
    optional: tuple[Literal["origin"], ...] = ()
    alone: Callable[[Derivatives], Scores] | None = None


def _map_widened(fn: Callable[..., jax.Array], *trees: ArrayTree | None) -> Scores:
    """Maps over leaves in float32 at least."""
    return jax.tree.map(lambda *leaves: fn(*map(widen, leaves)), *trees)


def absolute_weight(d: Derivatives) -> Scores:
    """Returns |θ|."""
    return _map_widened(jnp.abs, d.params)


def squared_weight(d: Derivatives) -> Scores:
    """Returns θ²."""
    return _map_widened(jnp.square, d.params)


def first_order(d: Derivatives) -> Scores:
    """Returns θ ⊙ ḡ: what removing each weight takes off the loss, to first order."""
    return _map_widened(jnp.multiply, d.params, d.gradient)


def second_order(d: Derivatives) -> Scores:
    """Returns θ ⊙ Hḡ: half of what removing each weight takes off ‖ḡ‖²."""
    return _map_widened(jnp.multiply, d.params, d.hessian_gradient)


def absolute_first_order(d: Derivatives) -> Scores:
    """Returns |θ ⊙ ḡ|."""
    return jax.tree.map(jnp.abs, first_order(d))


def biased(d: Derivatives) -> Scores:
    """Returns |θ − θ₀| · |θ ⊙ ḡ|, with θ₀ = 0 where there is no origin."""
    if d.origin is None:
        distance = _map_widened(jnp.abs, d.params)
    else:
        distance = _map_widened(lambda x, x0: jnp.abs(x - x0), d.params, d.origin)
    return jax.tree.map(jnp.multiply, distance, absolute_first_order(d))


def squared_first_order(d: Derivatives) -> Scores:
    """Returns θ² ⊙ E[g²] as the square of θ √E[g²], whose range is wider."""
    return _map_widened(lambda x, rms: (x * rms) ** 2, d.params, d.gradient_rms)


# Outer functions are operators, which JAX and NumPy each apply to their own arrays.
def _identity(x: chex.Array) -> chex.Array:
    return x


def _root(x: chex.Array) -> chex.Array:
    return x**0.5


_HESSIAN_GRADIENT: tuple[Field, ...] = ("hessian_gradient",)

RULES: dict[str, Rule] = {
    "magnitude": Rule(squared_weight, _root, (), alone=absolute_weight),
    "loss_preservation": Rule(absolute_first_order, _identity, ("gradient",)),
    "biased_loss_preservation": Rule(biased, _identity, ("gradient",), ("origin",)),
    "taylor": Rule(first_order, abs, ("gradient",)),
    "fisher": Rule(squared_first_order, _identity, ("squared_gradient",)),
    "grasp": Rule(second_order, _identity, _HESSIAN_GRADIENT),
    "gradient_norm_preservation": Rule(second_order, abs, _HESSIAN_GRADIENT),
}
"""The measures that are a formula of θ, ḡ, Hḡ and E[g²], by their public names: what
`gf.score`, `gf.score_units` and the experiments score by."""


_OTHER_NAMES = {"gradient_norm_increase": "grasp"}


def rule_of(measure: str) -> Rule:
    """Returns a measure's rule by its public name: of channels, that of their scales.

    Raises:
        TypeError: for what is no name.
        ValueError: for an unknown name, listing the known ones.
    """
    if not isinstance(measure, str):
        raise TypeError(
            f"measure is {quote(measure)}: pass the name of one, such as 'taylor'."
        )
    name = _OTHER_NAMES.get(measure, measure)
    if name in CHANNEL_MEASURES:
        name = CHANNEL_MEASURES[name].of_parameters
    if name in RULES:
        return RULES[name]
    if name == "random":
        raise ValueError(
            "random scores need a key and no derivatives: gf.random(key)(params) for "
            "weights; for units draw numbers, one for each of units[name].size."
        )
    known = ", ".join([*RULES, *_OTHER_NAMES, *CHANNEL_MEASURES])
    raise ValueError(f"there is no measure {quote(measure)}; known are {known}.")


def derivatives_for(measure: str, d: Derivatives | Params) -> Derivatives:
    """Returns derivatives that hold what a measure is made of.

    Args:
        measure: its public name.
        d: derivatives; or parameters, or an `nnx.Module`, which are enough for some.

    Raises:
        TypeError: if a leaf of the parameters, or of what the measure is made of, is
            not a real floating-point array.
        ValueError: naming what is lacking and how to get it, or where a tree differs
            from that of the parameters.
    """
    rule = rule_of(measure)
    needs = rule.needs
    if not isinstance(d, Derivatives):
        if needs:
            raise ValueError(
                f"{measure} needs {needs[0]}: pass what gf.differentiate(loss_fn)"
                "(params, batch) returns, not parameters alone."
            )
        d = Derivatives.without_loss(params_of(d))
    d = align(d, [rule])
    for field in needs:
        if getattr(d, field) is None:
            remedy = "squares='batch'" if field == "squared_gradient" else "order=2"
            raise ValueError(
                f"{measure} needs {field}, which these derivatives lack: evaluate "
                f"them by gf.differentiate(loss_fn, {remedy})."
            )
    return d


def align(d: Derivatives, rules: Iterable[Rule]) -> Derivatives:
    """Returns derivatives whose trees are like params, those that rules look at.

    Args:
        d: derivatives, maybe read from a file or made by hand.
        rules: of measures.

    Raises:
        TypeError: if a leaf is not a real floating-point array.
        ValueError: if a tree is another than that of params.
    """
    check_floating(d.params, "params")
    structure = jax.tree.structure(d.params)
    aligned = {}
    fields = [field for rule in rules for field in rule.needs + rule.optional]
    for field in dict.fromkeys(fields):
        held = "gradient_rms" if field == "squared_gradient" else field
        tree = getattr(d, held)
        if tree is not None:
            check_floating(tree, held)
            leaves = aligned_leaves(tree, d.params, what=held, like_what="params")
            aligned[held] = structure.unflatten(leaves)
    return d._replace(**aligned)


def per_weight(rule: Rule, d: Derivatives) -> Scores:
    """Returns the score of each weight, outer(term)."""
    if rule.alone is not None:
        return rule.alone(d)
    return jax.tree.map(rule.outer, rule.term(d))


def bind_measure(
    name: str, loss_fn: LossFn, *, per_example: bool = False, **options: Any
) -> Jitted:
    """Binds a rule to a loss: a function `(params, *args, **kwargs) -> scores`.

    Args:
        name: the measure's, a key of `RULES`.
        loss_fn: a loss of one batch, or of many.
        per_example: square the gradients of examples, not of batches.
        **options: `origin` and `has_aux`, as in `differentiate`.
    """
    rule = RULES[name]
    squares = "example" if per_example else "batch"

    def scores(d: Derivatives) -> Scores:
        return per_weight(rule, d)

    scores.__name__ = name
    return evaluate_then(
        scores,
        loss_fn,
        order=2 if "hessian_gradient" in rule.needs else 1,
        squares=squares if "squared_gradient" in rule.needs else None,
        **options,
    )
