"""The optimizer step with masks over the plain one, each in one jit."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from measuring import Ratio, temporaries

import gradflow_jax as gf

OPTIMIZERS = {
    "sgd with momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-3),
}
# Weights in millions by the width of a ResNet-50, and the target.
SIZES = {"25.6 M": (64, 1.06), "10.4 M": (40, None)}

LIMIT = (
    "the least: that of carrying the masks unread, times what their bytes add to those "
    "of the step, 1.05 with sgd and 1.04 with adamw"
)


class Stepper:
    """Steps of an optimizer in one jit, which reuses the memory of its arguments."""

    def __init__(self, tx, params, gradient):
        # A copy: the steps donate it.
        self.params = jax.tree.map(jnp.copy, params)
        self.state = tx.init(self.params)
        self.gradient = gradient

        def step(params, state, gradient):
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self):
        self.params, self.state = self.step(self.params, self.state, self.gradient)
        return self.params

    def held(self):
        lowered = self.step.lower(self.params, self.state, self.gradient)
        return temporaries(lowered.compile())


def drawn(width, seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return [
        jnp.asarray(generator.standard_normal(shape, np.float32) * np.float32(scale))
        for shape in networks.resnet50_shapes(width)
    ]


def carried(masks):
    """A state that holds masks which nobody reads: what handing them on costs."""

    def init(params):
        del params
        return gf.transforms.MaskState([jnp.copy(mask) for mask in masks])

    def update(updates, state, params=None):
        del params
        return updates, state

    return optax.GradientTransformation(init, update)


def random_masks(params, seed=2):
    generator = np.random.default_rng(seed)
    return [jnp.asarray(generator.random(leaf.shape) < 0.1) for leaf in params]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_step_over_plain(paired, counted, quick, name, size):
    width, target = SIZES[size]
    width = width // 4 if quick else width
    params, gradient = drawn(width, 0), drawn(width, 1, 1e-3)
    tx, masks = OPTIMIZERS[name](), random_masks(params)
    bools, bits = gf.apply_mask(masks), gf.apply_mask(masks, packed=True)
    contestants = {
        "ours": Stepper(optax.chain(tx, bools), params, gradient),
        "packed": Stepper(optax.chain(tx, bits), params, gradient),
        "carried": Stepper(optax.chain(tx, carried(masks)), params, gradient),
        "plain": Stepper(tx, params, gradient),
    }
    memory = {kind: stepper.held() for kind, stepper in contestants.items()}
    work = f"{name}, {size} weights"
    paired(
        contestants,
        Ratio(f"step that carries masks unread over plain: {work}", "carried", "plain"),
        Ratio(f"masked step over plain: {work}", "ours", "plain", target, note=LIMIT),
        Ratio(f"masked step over plain, masks as bits: {work}", "packed", "plain"),
        rounds=51,
        memory=memory,
    )
    more = memory["ours"]["temporaries"] - memory["plain"]["temporaries"]
    counted(f"temporaries of the masked step: {work}", more, "bytes", at_most=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recompilations(counted, name):
    params, gradient = drawn(4, 0), drawn(4, 1)
    tx = optax.chain(OPTIMIZERS[name](), gf.apply_mask(random_masks(params)))
    stepper = Stepper(tx, params, gradient)
    stepper()
    before = stepper.step._cache_size()
    for seed in (3, 4):
        masks = random_masks(params, seed)
        stepper.state = gf.replace_masks(tx, stepper.state, stepper.params, masks)
        stepper()
    found = stepper.step._cache_size() - before
    counted(f"recompilations at new masks: {name}", found, "", at_most=0)
