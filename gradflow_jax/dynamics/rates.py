"""Time derivatives along gradient flow: predicted by identities, and measured."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.dynamics.evolution import Evolution, check_evolution
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

    Beside `measured_rates` they say how far a run is from gradient flow. What sets the
    two apart, beside large steps and noisy batches, is mostly the time that `track` or
    `Recorder` was given as `learning_rate=`:

    - left at its default 1.0 it counts steps, and measured rates are those of a step;
    - momentum μ, also Nesterov's, takes steps that add up to η/(1 − μ) each: that is
      the time of a step, not η;
    - decay of the weights by the optimizer is no part of ∇L: put λ‖θ‖²/2 into the loss;
    - clipping, Adam and all that divides by the size of past gradients follow another
      flow than that of −∇L, and have no such time.

    Args:
        evolution: from `follow`, or `tracked` in training.

    Returns:
        The rates at each of its times.

    Raises:
        TypeError: for what is no evolution.
        ValueError: for a quantity that has not one value for each of the times.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2
        >>> run = gf.dynamics.gradient_flow(loss_fn)(jnp.array([3.0]), [0.0])
        >>> rates = gf.dynamics.predicted_rates(gf.dynamics.follow(loss_fn)(run))
        >>> rates.loss.tolist(), rates.model.theta2_second.tolist()  # −w², 4 w²
        ([-9.0], [36.0])
    """
    check_evolution(evolution)

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

    While the learning rate is 0, as at the start of a warm-up, no time passes and
    nothing moves: such samples are one point, and share its rates. Where samples of one
    time differ, or the time goes back, the run jumps: the rates on its two sides are
    one-sided, each of the samples on that side.

    Args:
        evolution: from `follow`, or `tracked` in training, of three samples or more.

    Returns:
        The rates at each of its times; NaN where no time passes between the samples
        on one side of a jump, and of second derivatives where there are but two times.

    Raises:
        TypeError: for what is no evolution.
        ValueError: for fewer than three samples, or a quantity that has not one for
            each of the times.

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
    check_evolution(evolution)
    count = len(evolution.times)
    if count < 3:
        raise ValueError(
            f"the evolution has {count} sample{'' if count == 1 else 's'}: a second "
            "derivative takes three at least, and five are as exact as it gets."
        )
    stencils = list(_stencils(evolution))

    def derivative(values: Any, order: int) -> np.ndarray:
        samples = np.asarray(values, np.float64)
        rates = np.full_like(samples, np.nan)
        for stencil in stencils:
            rates[stencil.rows] = np.einsum(
                "ts,ts...->t...", stencil.weights[order], samples[stencil.samples]
            )
        return rates

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


class _Stencil(NamedTuple):
    """How the derivatives at some samples are sums of samples near them.

    The derivative of order k at the sample rows[i] is
    Σₛ weights[k, i, s] · value[samples[i, s]].

    Attributes:
        rows: the numbers of the samples at which the derivatives are, [row].
        samples: those of the samples that are summed, [row, sample].
        weights: [order, row, sample].
    """

    rows: np.ndarray
    samples: np.ndarray
    weights: np.ndarray


def _stencils(evolution: Evolution) -> Iterator[_Stencil]:
    """Yields the stencil of each part of a run between two of its jumps."""
    times = np.asarray(evolution.times, np.float64)
    with np.errstate(invalid="ignore"):
        steps = np.diff(times)
    goes_on = np.isfinite(steps) & (steps > 0)
    _, *quantities = evolution
    values = [np.asarray(leaf) for leaf in jax.tree.leaves(quantities)]
    moved = [(value[1:] != value[:-1]).reshape(len(steps), -1) for value in values]
    stands_still = (steps == 0) & ~np.concatenate(moved, axis=1).any(1)
    jumps = np.flatnonzero(~(goes_on | stands_still)) + 1
    for part in np.split(np.arange(len(times)), jumps):
        # A point is a time of the part; `points` are the first samples at each.
        is_new = np.concatenate([[True], goes_on[part[:-1]]])
        points, point_of = part[is_new], np.cumsum(is_new) - 1
        weights, window = _difference_weights(times[points])
        yield _Stencil(part, points[window[point_of]], weights[:, point_of])


# Times without end, or of a distance that overflows, give NaN.
@np.errstate(over="ignore", invalid="ignore")
def _difference_weights(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how derivatives at rising times are sums of the values near them.

    The derivative of order k at time t is Σₛ weights[k, t, s] · value[window[t, s]].
    With unit steps and three times the weights at the middle one are (0, 1, 0),
    (−½, 0, ½) and (1, −2, 1) for k = 0, 1, 2. They are NaN for an order that takes
    more times than there are.

    Returns:
        The weights, [order, time, sample], and the numbers of the times, [time,
        sample].
    """
    count = len(times)
    width = min(STENCIL, count)
    # Windows are centered, and shifted inwards at the ends of the run.
    first = np.clip(np.arange(count) - width // 2, 0, count - width)
    window = first[:, None] + np.arange(width)
    near = times[window]
    offsets = near - times[:, None]
    weights = np.full((3, count, width), np.nan)
    # The weights of sample s are the derivatives at 0 of the polynomial that is 1 at
    # its own offset xₛ and 0 at the others, Lagrange's Πⱼ (x − xⱼ)/(xₛ − xⱼ). It is
    # multiplied out factor by factor, up to x². Distances are taken of the times, since
    # small ones are lost in offsets that are rounded.
    for s in range(width):
        coefficients = np.array([[1.0], [0.0], [0.0]]) * np.ones(count)
        for j in set(range(width)) - {s}:
            lower = np.concatenate([np.zeros((1, count)), coefficients[:2]])
            distance = near[:, s] - near[:, j]
            coefficients = (lower - offsets[:, j] * coefficients) / distance
        weights[:width, :, s] = (coefficients * [[1], [1], [2]])[:width]
    return weights, window
