"""The scores as one would write them in JAX without the library."""

import jax
import jax.numpy as jnp


def reverse_over_reverse(loss):
    """Hḡ as the gradient of ⟨ḡ, ∇L⟩, with ḡ held fast."""

    def product(params, *args):
        along = jax.lax.stop_gradient(jax.grad(loss)(params, *args))

        def inner(params):
            found = jax.grad(loss)(params, *args)
            pairs = zip(*map(jax.tree.leaves, (along, found)), strict=True)
            return sum(jnp.vdot(a, b) for a, b in pairs)

        return along, jax.grad(inner)(params)

    return jax.jit(product)


def raw_grasp(loss):
    @jax.jit
    def scores(params, *args):
        def gradient(params):
            return jax.grad(loss)(params, *args)

        along = gradient(params)
        _, product = jax.jvp(gradient, (params,), (along,))
        return jax.tree.map(jnp.multiply, params, product)

    return scores


def raw_loss_preservation(loss):
    @jax.jit
    def scores(params, *args):
        gradient = jax.grad(loss)(params, *args)
        return jax.tree.map(lambda x, g: jnp.abs(x * g), params, gradient)

    return scores
