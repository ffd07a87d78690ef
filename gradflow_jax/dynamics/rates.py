"""Time derivatives along gradient flow: what the identities say, and what is seen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradflow_jax.dynamics.evolution import Evolution
from gradflow_jax.dynamics.inner_products import Products

# Samples that a measured derivative is made of: the first derivative is exact for
# polynomials of degree 4, its error of the fourth order of their distance.
STENCIL = 5


class NormRates(NamedTuple):
    """How fast the norms of one set of weights change.

    Attributes:
        theta2: d‖θ‖²/dt.
        theta2_second: d²‖θ‖²/dt².
        g2: d‖g‖²/dt.
    """

    theta2: Any
    theta2_second: Any
    g2: Any


class Rates(NamedTuple):
    """The time derivatives of an evolution, of its shapes and names.

    Attributes:
        loss: dL/dt, [time]. A set's share in it is −‖g‖² of the set.
        model: of all weights, each [time].
        leaves: of each leaf of params, by its path, [time].
        units: of the weights that make each unit, by its family's name, [time, unit].
    """

    loss: np.ndarray
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

    def of(found: Products) -> NormRates:
        return NormRates(
            theta2=-2 * found.theta_g,
            theta2_second=2 * (found.g2 + found.theta_hg),
            g2=-2 * found.g_hg,
        )

    return _rates(evolution, -evolution.model.g2, of)


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
    weights, window = _differences(np.asarray(evolution.times, np.float64))

    def rate(values: Any, order: int) -> np.ndarray:
        samples = np.asarray(values, np.float64)[window]
        return np.einsum("ts,ts...->t...", weights[order], samples)

    def of(found: Products) -> NormRates:
        return NormRates(
            theta2=rate(found.theta2, 1),
            theta2_second=rate(found.theta2, 2),
            g2=rate(found.g2, 1),
        )

    return _rates(evolution, rate(evolution.loss, 1), of)


def _rates(
    evolution: Evolution, loss: np.ndarray, of: Callable[[Products], NormRates]
) -> Rates:
    return Rates(
        loss,
        of(evolution.model),
        {path: of(found) for path, found in evolution.leaves.items()},
        {name: of(found) for name, found in evolution.units.items()},
    )


def _differences(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of samples, [order, time, sample], and which they are."""
    count = len(times)
    if count < 3:
        raise ValueError(
            f"the evolution has {count} sample{'' if count == 1 else 's'}: a second "
            "derivative takes three at least, and five are as exact as it gets."
        )
    width = min(STENCIL, count)
    first = np.clip(np.arange(count) - width // 2, 0, count - width)
    window = first[:, None] + np.arange(width)
    offsets = times[window] - times[:, None]
    # In units of the window's width, lest powers under- or overflow.
    span = np.abs(offsets).max(1)
    powers = (offsets / span[:, None])[:, None] ** np.arange(width)[:, None]
    # Weights w of the derivative of order k: Σ wᵢ xᵢᵖ = k! where p = k, else 0.
    sought = np.zeros((count, width, 3))
    for order, factor in enumerate((1, 1, 2)):
        sought[:, order, order] = factor / span**order
    weights = np.linalg.solve(powers, sought)
    return np.moveaxis(weights, -1, 0), window
