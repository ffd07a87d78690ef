"""Makes a classifier of any framework and its images one thing: a problem."""

from dataclasses import dataclass
from functools import cached_property

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradflow_jax.observations.arguments import check_function, checked_array
from gradflow_jax.observations.model_functions import (
    Apply,
    Data,
    Init,
    names_of_arguments,
    of_equinox,
    of_linen,
    of_nnx,
)
from gradflow_jax.programs.models import HOLDS_VARIABLES, ModelLike, kind_of
from gradflow_jax.programs.uses import first_uses
from gradflow_jax.trees import (
    Params,
    check_floating,
    describe,
    is_real_floating,
    named_leaves,
)

Batch = tuple[Data, Data]
"""Inputs and their labels."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A classifier to be trained and pruned: what the paper's observations are of.

    Attributes:
        init: `init(key) -> params`, fresh ones for each seed.
        apply: `apply(params, inputs) -> logits [example, class]`, a pure function.
        inputs: [example, ...].
        labels: integers [example], from 0 to classes − 1.

    Raises:
        TypeError: for functions that are none, and inputs or labels that are no arrays
            of numbers; where the loss is computed, if `apply` returns no logits.
        ValueError: if labels are not one integer from 0 on for each input, or if there
            is none; where the loss is computed, if logits have fewer classes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> init = lambda key: {"w": jax.random.normal(key, (2, 3))}
        >>> apply = lambda params, x: x @ params["w"]
        >>> x, y = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])
        >>> problem = gf.observations.Problem(init, apply, x, y)
        >>> params = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)))
        >>> round(float(problem.loss(params, problem.data)), 4)  # log 3
        1.0986
    """

    init: Init
    apply: Apply
    inputs: Data
    labels: Data

    def __post_init__(self) -> None:
        """Checks the functions and the data, and makes lists arrays."""
        check_function(self.init, "init", "init(key) -> params")
        check_function(self.apply, "apply", "apply(params, inputs) -> logits")
        inputs = checked_array(self.inputs, "inputs")
        labels = checked_array(self.labels, "labels")
        if labels.shape != inputs.shape[:1] or not jnp.issubdtype(
            labels.dtype, jnp.integer
        ):
            raise ValueError(
                f"labels are {describe(labels)} and inputs {describe(inputs)}: pass "
                "one integer label for each input, along the first axis of both."
            )
        if not labels.size:
            raise ValueError("inputs and labels are empty: pass one example at least.")
        smallest = int(np.asarray(labels).min())
        if smallest < 0:
            raise ValueError(
                f"labels go down to {smallest}: they count classes from 0, so leave "
                "out what has none."
            )
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "labels", labels)

    @property
    def data(self) -> Batch:
        """All inputs and labels."""
        return jnp.asarray(self.inputs), jnp.asarray(self.labels)

    def loss(
        self, params: Params, batch: Batch, *, temperature: chex.Numeric = 1.0
    ) -> jax.Array:
        """Returns the mean cross-entropy of logits / T, in nats."""
        inputs, labels = batch
        logits = self.apply(params, inputs)
        self._check_logits(logits, len(labels))
        logits = logits / temperature
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses)

    @cached_property
    def depth(self) -> dict[str, int]:
        """The place of each leaf in the order in which they meet the inputs first.

        Leaves that meet them in one equation, as those of one flat vector do, share a
        place.
        """

        def init(key: chex.PRNGKey) -> Params:
            params = self.init(key)
            check_floating(params, "params")
            return params

        def apply(params: Params, inputs: chex.Array) -> jax.Array:
            logits = self.apply(params, inputs)
            self._check_logits(logits, 1)
            return logits

        params = jax.eval_shape(init, jax.random.key(0))
        program = jax.make_jaxpr(apply)(params, jnp.asarray(self.inputs[:1]))
        numbers = first_uses(program.jaxpr, [path for path, _ in named_leaves(params)])
        place_of = {
            number: place for place, number in enumerate(sorted({*numbers.values()}))
        }
        return {path: place_of[number] for path, number in numbers.items()}

    def _check_logits(self, logits: jax.Array, examples: int) -> None:
        """Checks what `apply` returns for so many examples.

        Raises:
            TypeError: for what are no real floating-point numbers [example, class].
            ValueError: if there are labels of more classes.
        """
        shape = jnp.shape(logits) if is_real_floating(logits) else ()
        if len(shape) != 2 or shape[0] != examples:
            raise TypeError(
                f"apply returned {describe(logits)} for {examples} inputs: return "
                "their logits, real floating-point numbers [example, class]."
            )
        if shape[1] <= self._largest_label:
            raise ValueError(
                f"apply returned logits of {shape[1]} classes, but labels go up to "
                f"{self._largest_label}: labels count classes from 0."
            )

    @cached_property
    def _largest_label(self) -> int:
        return int(np.asarray(self.labels).max())


def problem_of(
    model: ModelLike | tuple[Init, Apply],
    inputs: Data,
    labels: Data,
) -> Problem:
    """Makes a problem of a model as the user has it.

    Args:
        model: a linen module; a function that makes an NNX module of `nnx.Rngs`, such
            as its class, by the keyword `rngs` if it has that; one that makes an
            Equinox module of its argument `key`; or a pair `(init, apply)` of functions
            as `Problem` has.
        inputs: [example, ...], as the model is called with.
        labels: integers [example].

    Returns:
        The problem. An NNX module is called as it was made, so batch norm that is not
        in evaluation mode takes the statistics of the batch. An Equinox module is
        called with one example, as its layers are, and mapped over them.

    Raises:
        TypeError: if the model is none of these, or if it cannot be made or called with
            the inputs alone: say then by a pair `(init, apply)` how.
            Also for inputs or labels that are no arrays of numbers.
        ValueError: if a linen module has other variables than params, or an NNX module
            draws random numbers, as dropout does, which would be the same in each step:
            say then by a pair what they are to be; or if the labels do not fit.

    Example:
        >>> import flax.linen as nn
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> x, y = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])
        >>> problem = gf.observations.problem_of(nn.Dense(3), x, y)
        >>> problem.apply(problem.init(jax.random.key(0)), x).shape
        (4, 3)
    """
    inputs = checked_array(inputs, "inputs")
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return Problem(*model, inputs, labels)
    kind = kind_of(model)
    if kind in HOLDS_VARIABLES:
        raise TypeError(
            f"{type(model).__name__} has weights already, and each seed takes fresh "
            "ones: pass a function of nnx.Rngs or of a key that makes the module, such "
            "as its class."
        )
    if kind == "linen":
        init, apply = of_linen(model, inputs)
    elif "key" in names_of_arguments(model):
        init, apply = of_equinox(model)
    else:
        init, apply = of_nnx(model, inputs)
    return Problem(init, apply, inputs, labels)
