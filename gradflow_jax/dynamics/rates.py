"""Time derivatives along gradient flow: predicted by identities, and measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.dynamics.evolution import Evolution
from gradflow_jax.dynamics.inner_products import Products

# A measured derivative is made of this many samples. The first derivative is then
# exact for polynomials of degree 4, and its error of the fourth order of the distance.
STENCIL = 5


class NormRates(NamedTuple):
    """How fast the norms of one set of weights change.

    Attributes:
        theta2: d‖θ‖²/dt.
        theta2_second: d²‖θ‖²/dt².
        g2: d‖g‖²/dt.
    """

    theta2: jax.Array | np.ndarray
    theta2_second: jax.Array | np.ndarray
    g2: jax.Array | np.ndarray


class Rates(NamedTuple):
    """The time derivatives of an evolution, of its shapes and names.

    Attributes:
        loss: dL/dt, [time]. A set's share in it is −‖g‖² of the set.
        model: of all weights, each [time].
        leaves: of each leaf of params, by its path, [time].
        units: of the weights that make each unit, by its family's name, [time, unit].
    """

    loss: jax.Array | np.ndarray
    model: NormRates
    leaves: dict[str, NormRates]
    units: dict[str, NormRates]


def predicted_rates(evolution: Evolution) -> Rates:
    """Returns the time derivatives that the identities of gradient flow predict.

    Under dθ/dt = −g, for all weights or any set of them:

        dL/dt = −‖g‖²        d‖θ‖²/dt = −2 θᵀg
        d‖g‖²/dt = −2 gᵀHg   d²‖θ‖²/dt² = 2 (‖g‖² + θᵀHg)

    Beside `measured_rates` they say how far a run is from gradient flow: momentum,
    large steps and noisy batches set them apart.

    Args:
        evolution: from `follow`, or `tracked` in training.

    Returns:
        The rates at each of its times.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2
        >>> run = gf.dynamics.gradient_flow(loss_fn)(jnp.array([3.0]), [0.0])
        >>> rates = gf.dynamics.predicted_rates(gf.dynamics.follow(loss_fn)(run))
        >>> rates.loss.tolist(), rates.model.theta2_second.tolist()  # −w², 4 w²
        ([-9.0], [36.0])
    """

    def predict(products: Products) -> NormRates:
        return NormRates(
            theta2=-2 * products.theta_g,
            theta2_second=2 * (products.g2 + products.theta_hg),
            g2=-2 * products.g_hg,
        )

    return _rates(evolution, -evolution.model.g2, predict)


def measured_rates(evolution: Evolution) -> Rates:
    """Returns the time derivatives by finite differences of the samples.

    The derivatives at a time are those of the polynomial through the five samples
    nearest in order, at any distances; with h between them the error is of the order
    h⁴, of second derivatives h³. Rounding is divided by h, and by h²: float32
    shows in second derivatives.

    Args:
        evolution: from `follow`, or `tracked` in training, of three samples or more.

    Returns:
        The rates at each of its times.

    Raises:
        ValueError: for fewer than three samples.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2
        >>> flow = gf.dynamics.gradient_flow(loss_fn)
        >>> run = flow(jnp.array([3.0]), jnp.arange(5) / 10)
        >>> rates = gf.dynamics.measured_rates(gf.dynamics.follow(loss_fn)(run))
        >>> print(rates.loss[2].round(3), -9 * jnp.exp(-0.4).round(3))
        -6.033 -6.03
    """
    weights, window = _difference_weights(np.asarray(evolution.times, np.float64))

    def derivative(values: Any, order: int) -> np.ndarray:
        samples = np.asarray(values, np.float64)[window]
        return np.einsum("ts,ts...->t...", weights[order], samples)

    def measure(products: Products) -> NormRates:
        return NormRates(
            theta2=derivative(products.theta2, 1),
            theta2_second=derivative(products.theta2, 2),
            g2=derivative(products.g2, 1),
        )

    return _rates(evolution, derivative(evolution.loss, 1), measure)


def _rates(
    evolution: Evolution,
    loss: jax.Array | np.ndarray,
    rates_of: Callable[[Products], NormRates],
) -> Rates:
    """Returns the rates of the loss and of every set of weights of an evolution."""
    return Rates(
        loss,
        rates_of(evolution.model),
        {path: rates_of(products) for path, products in evolution.leaves.items()},
        {name: rates_of(products) for name, products in evolution.units.items()},
    )


def _difference_weights(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how derivatives are sums of samples near them.

    The derivative of order k at time t is Σₛ weights[k, t, s] · value[window[t, s]].
    With unit steps and three samples the weights at the middle time are (0, 1, 0),
    (−½, 0, ½) and (1, −2, 1) for k = 0, 1, 2.

    Returns:
        The weights, [order, time, sample], and the numbers of the samples, [time,
        sample].

    Raises:
        ValueError: for fewer than three times.
    """
    count = len(times)
    if count < 3:
        raise ValueError(
            f"the evolution has {count} sample{'' if count == 1 else 's'}: a second "
            "derivative takes three at least, and five are as exact as it gets."
        )
    width = min(STENCIL, count)
    # Windows are centered, and shifted inwards at the ends of the run.
    first = np.clip(np.arange(count) - width // 2, 0, count - width)
    window = first[:, None] + np.arange(width)
    offsets = times[window] - times[:, None]
    # The offsets x are divided by the largest in their window, lest their powers under-
    # or overflow; the derivative of order k is then divided by span^k.
    span = np.abs(offsets).max(1)
    powers = (offsets / span[:, None])[:, None] ** np.arange(width)[:, None]
    # The derivative of order k of xᵖ at 0 is k! where p = k, else 0. Weights w that are
    # exact for all p below the width solve Σᵢ wᵢ xᵢᵖ = that, a Vandermonde system with
    # a row for each p and a right side for each k.
    exact = np.zeros((count, width, 3))
    for order, factorial in enumerate((1, 1, 2)):
        exact[:, order, order] = factorial / span**order
    weights = np.linalg.solve(powers, exact)
    return np.moveaxis(weights, -1, 0), window
