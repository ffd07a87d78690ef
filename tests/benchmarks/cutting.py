"""Networks half of whose channels are cut, beside those that were built so small."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow_jax as gf
from gradflow_jax.structured import Shrunk, Units
from tests.structured.zoo import large as zoo_large

NETWORKS = {"VGG-13": zoo_large.VGG13, "ResNet-56": zoo_large.ResNet56}


class CutNetwork(NamedTuple):
    """A network, and the ways to be rid of half of its channels.

    Attributes:
        module: the whole network.
        built: the same architecture, of half the width.
        shrunk: the cut network as a function.
        units: of the whole one.
        keep: which of them are left.
        variables: of the whole network.
        masked: the same with zeros where channels are gone.
        small: the cut ones.
        x: a batch of images.
    """

    module: Any
    built: Any
    shrunk: Shrunk
    units: Units
    keep: dict[str, np.ndarray]
    variables: Any
    masked: Any
    small: Any
    x: jax.Array


def cut_network(name: str, *, batch: int, width_divisor: int = 1) -> CutNetwork:
    """Cuts every second channel of each family."""
    kind = NETWORKS[name]
    module = kind(width_divisor=width_divisor)
    built = kind(width_divisor=2 * width_divisor)
    x = jax.random.normal(jax.random.key(0), (batch, 32, 32, 3))
    variables = _drawn(jax.eval_shape(module.init, jax.random.key(0), x))
    units = gf.find_units(module, variables, x)
    keep = {f.name: np.arange(f.size) % 2 == 0 for f in units}
    small = gf.cut(variables, units, keep)
    shapes = jax.eval_shape(built.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, shapes)
    masked = gf.prune(variables, units.masks(keep, variables))
    shrunk = Shrunk(units, keep)
    return CutNetwork(module, built, shrunk, units, keep, variables, masked, small, x)


def _drawn(shapes: Any, seed: int = 0) -> Any:
    """Returns weights of these shapes; statistics of batch norm are positive."""
    generator = np.random.default_rng(seed)

    def draw(leaf: Any) -> jax.Array:
        values = generator.uniform(0.5, 1.5, leaf.shape) / np.sqrt(
            max(np.prod(leaf.shape[:-1]), 1)
        )
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(draw, shapes)


class Steps:
    """Training steps in one jit, which reuses the memory of its arguments."""

    def __init__(self, run, variables, x):
        self.params = jax.tree.map(jnp.copy, variables["params"])
        rest = {k: v for k, v in variables.items() if k != "params"}
        tx = optax.sgd(1e-4, momentum=0.9)
        self.state = tx.init(self.params)

        def step(params, state):
            def loss(params):
                return jnp.mean(run({"params": params, **rest}, x) ** 2)

            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self):
        self.params, self.state = self.step(self.params, self.state)
        return self.params
