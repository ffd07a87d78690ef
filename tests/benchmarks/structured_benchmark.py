"""Cut models against masked ones, and against the architecture built so small."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from measuring import Ratio

import gradflow_jax as gf
from gradflow_jax.structured import Shrunk
from tests.structured.zoo import large as zoo_large

BATCH = 16
# Networks, and what half of the channels gone must bring at least.
NETWORKS = {"VGG-13": (zoo_large.VGG13, 5.0), "ResNet-56": (zoo_large.ResNet56, None)}


def drawn(shapes, seed=0):
    """Returns weights of these shapes; statistics of batch norm are positive."""
    generator = np.random.default_rng(seed)

    def draw(leaf):
        values = generator.uniform(0.5, 1.5, leaf.shape) / np.sqrt(
            max(np.prod(leaf.shape[:-1]), 1)
        )
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module", params=list(NETWORKS))
def network(request, quick):
    """A network, half of each family's channels gone, and the network built so."""
    kind, target = NETWORKS[request.param]
    divisor = 8 if quick else 1
    x = jax.random.normal(jax.random.key(0), (BATCH, 32, 32, 3))
    module, built = kind(width_divisor=divisor), kind(width_divisor=2 * divisor)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), x))
    units = gf.find_units(module, variables, x)
    keep = {f.name: np.arange(f.size) % 2 == 0 for f in units}
    small = gf.cut(variables, units, keep)
    shapes = jax.eval_shape(built.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, shapes)
    masked = gf.prune(variables, units.masks(keep, variables))
    shrunk = Shrunk(units, keep)
    return request.param, target, module, built, shrunk, variables, masked, small, x


def forward(run, variables, x):
    call = jax.jit(run)
    return lambda: call(variables, x)


def test_forward(network, paired):
    name, target, module, built, shrunk, dense, masked, small, x = network
    assert shrunk.native
    contestants = {
        "cut": forward(shrunk, small, x),
        "recorded": forward(shrunk.program, small, x),
        "built": forward(built.apply, small, x),
        "masked": forward(module.apply, masked, x),
        "dense": forward(module.apply, dense, x),
    }
    work = f"{name}, half of the channels gone, forward at batch {BATCH}"
    paired(
        contestants,
        Ratio(f"masked over cut: {work}", "masked", "cut", at_least=target),
        Ratio(f"dense over masked: {work}", "dense", "masked"),
        Ratio(f"cut over built so small: {work}", "cut", "built", at_most=1.02),
        Ratio(f"recorded program over built so small: {work}", "recorded", "built"),
        rounds=31,
    )


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


def test_training_step(network, paired):
    name, _, module, built, shrunk, dense, _, small, x = network
    contestants = {
        "cut": Steps(shrunk, small, x),
        "recorded": Steps(shrunk.program, small, x),
        "built": Steps(built.apply, small, x),
        "dense": Steps(module.apply, dense, x),
    }
    work = f"{name}, half of the channels gone, training step at batch {BATCH}"
    paired(
        contestants,
        Ratio(f"cut over built so small: {work}", "cut", "built", at_most=1.02),
        Ratio(f"recorded program over built so small: {work}", "recorded", "built"),
        Ratio(f"dense over cut: {work}", "dense", "cut"),
        rounds=21,
    )


@pytest.mark.parametrize("name", ["resnet50", "gpt24", "billion"])
def test_analysis(counted, name, quick):
    """Seconds of one core; a model is traced twice in them."""

    apply, variables, inputs = zoo_large.ZOO["resnet56" if quick else name]()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    start = time.process_time()
    units = gf.find_units(apply, variables, *inputs)
    seconds = time.process_time() - start
    work = f"units of {name}: {units.parameters() / 1e6:,.0f} M parameters"
    counted(work, seconds, "s of one core", at_most=5)
