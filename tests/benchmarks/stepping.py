"""Steps of an optimizer on the leaves of a ResNet-50, with masks and without."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax

import gradflow_jax as gf

OPTIMIZERS = {
    "sgd with momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-3),
}


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

    def compiled(self):
        """Returns the compiled program of a step."""
        return self.step.lower(self.params, self.state, self.gradient).compile()


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
