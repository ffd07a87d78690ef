"""What scores claim about gradient flow, measured along the flow itself.

θ(±h) comes from integrating dθ/dt = −∇L(θ) by Runge–Kutta, so that no identity is
compared with a formula of the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow_jax as gf

H = 1e-3
RNG = np.random.default_rng(1)


def mlp(params, x):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["second"]["kernel"] + params["second"]["bias"]


def conv_net(params, x):
    x = x.reshape(-1, 4, 4, 1)
    x = convolve(x, params["conv"]["kernel"])
    return jax.nn.softplus(x).reshape(len(x), -1) @ params["dense"]["kernel"]


def convolve(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=dims
    )


def draw(*shape):
    return RNG.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))


NETS = {
    "mlp": (
        mlp,
        {
            "first": {"kernel": draw(16, 4), "bias": draw(4)},
            "second": {"kernel": draw(4, 3), "bias": draw(3)},
        },
    ),
    "conv": (
        conv_net,
        {"conv": {"kernel": draw(3, 3, 1, 3)}, "dense": {"kernel": draw(12, 3)}},
    ),
}
BATCH = (RNG.normal(size=(12, 16)), RNG.integers(0, 3, 12))


def loss_of(net):
    def loss_fn(params, batch):
        logits = net(params, batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean()

    return loss_fn


@pytest.fixture(params=list(NETS))
def problem(request, float64):
    net, params = NETS[request.param]
    return loss_of(net), jax.tree.map(jnp.asarray, params)


def along_flow(loss_fn, params, times):
    """Returns θ at each time, by one step of the classical Runge–Kutta scheme."""
    gradient = jax.jit(jax.grad(lambda p: loss_fn(p, BATCH)))

    def moved(p, velocity, t):
        return jax.tree.map(lambda a, b: a - t * b, p, velocity)

    def at(t):
        k1 = gradient(params)
        k2 = gradient(moved(params, k1, t / 2))
        k3 = gradient(moved(params, k2, t / 2))
        k4 = gradient(moved(params, k3, t))
        mean = jax.tree.map(
            lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4
        )
        return moved(params, mean, t)

    return [at(t) for t in times]


def norm2(tree):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))


def total(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def test_rates_along_the_flow(problem):
    loss_fn, params = problem
    d = gf.differentiate(loss_fn)(params, BATCH)
    theta_g = gf.first_order_terms(loss_fn)(params, BATCH)
    theta_hg = gf.grasp(loss_fn)(params, BATCH)
    g_hg = jax.tree.map(jnp.multiply, d.gradient, d.hessian_gradient)
    before, after = along_flow(loss_fn, params, (-H, H))
    gradient = jax.jit(jax.grad(lambda p: loss_fn(p, BATCH)))

    def rate(quantity):
        return (quantity(after) - quantity(before)) / (2 * H)

    def close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)

    close(rate(lambda p: loss_fn(p, BATCH)), -norm2(d.gradient))
    close(rate(lambda p: norm2(gradient(p))), -2 * total(g_hg))
    close(rate(norm2), -2 * total(theta_g))
    for layer in params:
        close(rate(lambda p, at=layer: norm2(p[at])), -2 * total(theta_g[layer]))
    # It holds of one unit too: the weights into the first hidden neuron or filter.
    first = next(iter(params))
    unit = rate(lambda p: norm2(p[first]["kernel"][..., 0]))
    close(unit, -2 * total(theta_g[first]["kernel"][..., 0]))
    second = (norm2(after) - 2 * norm2(params) + norm2(before)) / H**2
    close(second, 2 * (norm2(d.gradient) + total(theta_hg)))


def test_distance_travelled_is_bounded_by_the_loss_gained(problem):
    loss_fn, params = problem
    for t in (0.01, 0.1):
        (moved_params,) = along_flow(loss_fn, params, (t,))
        distance = norm2(jax.tree.map(jnp.subtract, moved_params, params))
        gained = loss_fn(params, BATCH) - loss_fn(moved_params, BATCH)
        assert 0 < distance <= t * gained * (1 + 1e-9)


def test_shrinking_one_weight_changes_loss_and_gradient_norm_as_scored(problem):
    loss_fn, params = problem
    theta_g = gf.first_order_terms(loss_fn)(params, BATCH)
    theta_hg = gf.grasp(loss_fn)(params, BATCH)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    signed, curved = (jax.flatten_util.ravel_pytree(x)[0] for x in (theta_g, theta_hg))

    @jax.jit
    def effects(flat):
        loss, gradient = jax.value_and_grad(lambda p: loss_fn(p, BATCH))(unravel(flat))
        return loss, norm2(gradient)

    epsilon = 1e-4
    for i in (0, 7, len(flat) - 1):
        up, down = (effects(flat.at[i].multiply(1 + e)) for e in (epsilon, -epsilon))
        # The error of central differences is of order ε², not ε.
        loss, norm = ((b - a) / (2 * epsilon) for a, b in zip(up, down, strict=True))
        np.testing.assert_allclose(loss, -signed[i], rtol=1e-5)
        np.testing.assert_allclose(norm, -2 * curved[i], rtol=1e-5)


def test_hessian_gradient_is_the_dense_hessian_times_the_gradient(problem):
    loss_fn, params = problem
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    assert flat.size <= 100
    hessian = jax.jit(jax.hessian(lambda x: loss_fn(unravel(x), BATCH)))(flat)
    d = gf.differentiate(loss_fn)(params, BATCH)
    gradient, _ = jax.flatten_util.ravel_pytree(d.gradient)
    product, _ = jax.flatten_util.ravel_pytree(d.hessian_gradient)
    np.testing.assert_allclose(product, hessian @ gradient, rtol=1e-9, atol=1e-12)
    # The data set's Hḡ is the sum of H_b ḡ with the whole set's ḡ.
    batches = [tuple(a[i] for a in BATCH) for i in (slice(0, 5), slice(5, 12))]
    whole = gf.differentiate(gf.over_batches(loss_fn))(params, batches)
    product, _ = jax.flatten_util.ravel_pytree(whole.hessian_gradient)
    np.testing.assert_allclose(product, hessian @ gradient, rtol=1e-9, atol=1e-12)


def test_layers_of_a_homogeneous_net_have_one_sum(float64):
    kernels = [jnp.asarray(draw(*shape)) for shape in ((16, 5), (5, 4), (4, 3))]

    def loss_fn(kernels, batch):
        x = batch[0]
        for kernel in kernels[:-1]:
            x = jax.nn.relu(x @ kernel)
        logits = x @ kernels[-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean()

    sums = [jnp.sum(t) for t in gf.first_order_terms(loss_fn)(kernels, BATCH)]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-12)


def test_a_filter_under_train_mode_batch_norm_is_scale_invariant(float64):
    params = {"kernel": jnp.asarray(draw(16, 4)), "out": jnp.asarray(draw(4, 3))}

    def loss_fn(params, batch):
        x = batch[0] @ params["kernel"]
        # There is no epsilon: it would break the invariance by a little.
        x = (x - x.mean(0, keepdims=True)) / x.std(0, keepdims=True)
        logits = jnp.tanh(x) @ params["out"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean()

    d = gf.differentiate(loss_fn)(params, BATCH)
    first = gf.first_order_terms(loss_fn)(params, BATCH)["kernel"].sum(0)
    np.testing.assert_allclose(first, 0, atol=1e-15)
    second = gf.score(d, "grasp", axis=-1)["kernel"]
    squared_norms = jnp.sum(d.gradient["kernel"] ** 2, axis=0)
    # This is the derivative of the identity θᵤ·gᵤ = 0 along ḡ.
    np.testing.assert_allclose(second, -squared_norms, rtol=1e-9)
