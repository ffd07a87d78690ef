"""Makes a pair (init, apply) of functions of a module of any framework."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.models import as_function, kind_of, variables_of
from gradflow_jax.trees import Params, named_leaves

Data = jax.Array | np.ndarray
"""Inputs [example, ...] or labels [example]."""

Init = Callable[[chex.PRNGKey], Params]
"""`init(key) -> params`."""

Apply = Callable[..., jax.Array]
"""`apply(params, inputs) -> logits` [example, class]."""


def of_linen(module: Any, inputs: Data) -> tuple[Init, Apply]:
    """Returns a linen module as functions; its `init` refuses other variables."""

    def init(key: chex.PRNGKey) -> Params:
        with _calling(module):
            variables = module.init(key, jnp.asarray(inputs[:1]))
        collections = sorted(set(variables) - {"params"})
        if collections:
            raise ValueError(
                f"{type(module).__name__} has {', '.join(collections)} beside params: "
                "pass a pair (init, apply) of functions that says what they are to be, "
                "such as apply = lambda params, x: module.apply({'params': params, "
                "...}, x)."
            )
        return variables["params"]

    run = as_function(module)

    def apply(params: Params, x: chex.Array) -> jax.Array:
        with _calling(module):
            return run({"params": params}, x)

    return init, apply


def of_nnx(model: Any, inputs: Data) -> tuple[Init, Apply]:
    """Returns a function that makes an NNX module as functions.

    Raises:
        TypeError: if it makes none, or one that cannot be called with the inputs alone.
        ValueError: if the module draws random numbers.
    """
    from flax import nnx

    by_keyword = "rngs" in names_of_arguments(model)

    def make(rngs: nnx.Rngs) -> Any:
        with _making(model, "rngs=rngs" if by_keyword else "rngs"):
            return model(rngs=rngs) if by_keyword else model(rngs)

    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    if not isinstance(module, nnx.Module):
        raise TypeError(
            f"{model!r} makes {type(module).__name__} of nnx.Rngs: a function makes an "
            "NNX module of them, or an Equinox module of its argument `key`; of a "
            "model in plain JAX pass a pair (init, apply)."
        )

    def init(key: chex.PRNGKey) -> Params:
        return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    # All variables but the params, such as batch statistics, stay those of this module.
    module = make(nnx.Rngs(0))
    _check_draws_nothing(module, inputs)
    return init, as_function(module)


def _check_draws_nothing(module: Any, inputs: Data) -> None:
    """Checks that an NNX module computes the same whenever it is called.

    Raises:
        TypeError: if it cannot be called with the inputs alone.
        ValueError: if it draws random numbers.
    """
    from flax import nnx

    graphdef, state = nnx.split(module)

    def counts_of_draws(state: Any, x: chex.Array) -> Any:
        called = nnx.merge(graphdef, state, copy=True)
        with _calling(module):
            called(x)
        return nnx.state(called, nnx.RngCount), nnx.state(called, nnx.Param)

    counts = nnx.state(module, nnx.RngCount)
    paths = [path for path, _ in named_leaves(counts)]
    program = jax.make_jaxpr(counts_of_draws)(state, jnp.asarray(inputs[:1])).jaxpr
    # A count that is handed through was not used.
    drawn = [
        path
        for path, result in zip(paths, program.outvars, strict=False)
        if result not in program.invars
    ]
    if drawn:
        raise ValueError(
            f"{type(module).__name__} draws random numbers in a call ({drawn[0]!r} "
            "counts them), and would draw the same in each step: pass a function that "
            "makes it in evaluation mode (model.eval() before it returns model), or a "
            "pair (init, apply) of functions that says what is drawn."
        )


def of_equinox(model: Any) -> tuple[Init, Apply]:
    """Returns a function that makes an Equinox module of a key as functions.

    Raises:
        TypeError: if it makes none.
    """

    def make(key: chex.PRNGKey) -> Any:
        with _making(model, "key=key"):
            return model(key=key)

    module = make(key=jax.random.key(0))
    if not callable(module) or kind_of(module) != "equinox":
        raise TypeError(
            f"{model!r} makes {type(module).__name__} of a key: a function with the "
            "argument `key` makes an Equinox module; of a model in plain JAX pass a "
            "pair (init, apply)."
        )
    run = as_function(module)

    def apply(params: Params, x: chex.Array) -> jax.Array:
        return jax.vmap(lambda example: run(params, example))(x)

    return lambda key: variables_of(make(key=key)), apply


def names_of_arguments(make: Any) -> Collection[str]:
    """Returns the names of a function's arguments, so far as it tells them."""
    while isinstance(make, functools.partial):
        make = make.func
    # What makes a module of NNX takes any arguments and hands them to `__init__`.
    make = make.__init__ if inspect.isclass(make) else make
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        return ()


@contextmanager
def _making(make: Any, call: str) -> Iterator[None]:
    """Says how a function that makes a module is called, where that fails."""
    name = getattr(make, "__name__", type(make).__name__)
    remedy = "bind what else it takes by functools.partial"
    with _in_own_words(f"{name}({call}) makes no module", remedy):
        yield


@contextmanager
def _calling(module: Any) -> Iterator[None]:
    """Says how a module is called, where that fails."""
    remedy = (
        "pass a pair (init, apply) of functions that call it, such as apply = lambda "
        "params, x: module.apply({'params': params}, x, train=False)"
    )
    name = type(module).__name__
    with _in_own_words(f"{name} cannot be called with the inputs alone", remedy):
        yield


@contextmanager
def _in_own_words(what: str, remedy: str) -> Iterator[None]:
    """Adds a remedy to what Python says of arguments, and Flax of random numbers.

    Raises:
        TypeError: for a TypeError, and an error of Flax.
    """
    try:
        yield
    except Exception as error:
        is_of_flax = type(error).__module__.startswith("flax.errors")
        if not isinstance(error, TypeError) and not is_of_flax:
            raise
        said = str(error).partition("\n")[0].rstrip(".")
        raise TypeError(f"{what} ({said}): {remedy}.") from error
