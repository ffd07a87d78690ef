"""Scores weights by the Hessian-gradient product: by what pruning does to ‖ḡ‖²."""

from gradflow_jax.scores.evaluation import Jitted
from gradflow_jax.scores.losses import LossFn, of_a_loss
from gradflow_jax.scores.rules import bind_measure


@of_a_loss("(params, batch)")
def grasp(loss_fn: LossFn, *, has_aux: bool = False) -> Jitted:
    """Scores each weight by θ ⊙ Hḡ, signed: its removal takes 2 θ(Hḡ) off ‖ḡ‖².

    Removing the lowest, most negative scores *increases* the gradient norm, which is
    what GraSP aims at: `gradient_norm_increase` is the same function. GraSP's paper
    scores −θ ⊙ Hḡ and removes the highest: the same weights. On networks that are
    trained already it removes what the loss rests on (Lubana & Dick, observation 4),
    and early layers first; at initialization, with the logits divided by T = 200 and
    class-balanced data, it is a method of its own. To keep the gradient norm instead,
    use `gradient_norm_preservation`. A loss with a function that has a reverse rule
    alone (`jax.custom_vjp`) is differentiated in reverse twice, at about twice the cost
    of Hḡ. In float16 the products underflow, of which a warning says how many.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`. A
            temperature belongs in it.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> scores`: a tree like params,
        float32 at least, of either sign, in units of loss²/θ², higher is kept. With
        `has_aux`, `(scores, aux)`. These are the signed second-order terms: their
        sum over any set of weights is half of what removing it takes off ‖ḡ‖².

    Raises:
        TypeError: for what is no loss; at scoring, for params that are not real
            floating-point arrays or hold statistics too, or a loss that is not a
            scalar; over batches, for a one-shot iterator.
        ValueError: at scoring, for params without leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(jnp.array([1.0, -2.0]) * w**2) / 2
        >>> gf.grasp(loss_fn)(jnp.array([3.0, 1.0])).tolist()  # H = diag(1, -2)
        [9.0, 4.0]

    Reference:
        Wang et al., Picking Winning Tickets Before Training by Preserving Gradient
        Flow, ICLR 2020; Lubana & Dick, ICLR 2021.
    """
    return bind_measure("grasp", loss_fn, has_aux=has_aux)


gradient_norm_increase = grasp


@of_a_loss("(params, batch)")
def gradient_norm_preservation(loss_fn: LossFn, *, has_aux: bool = False) -> Jitted:
    """Scores each weight by |θ ⊙ Hḡ|: what its removal changes of ‖ḡ‖², either way.

    Removing the lowest scores leaves the gradient norm, and with it the second-order
    dynamics of training, as they are. It beats GraSP on the same evaluation (Lubana &
    Dick, observation 5). Of a filter the score is |Σ θ ⊙ Hḡ|, the absolute value
    outside the sum.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> scores`: a tree like params,
        float32 at least, non-negative, in the units of `grasp`, higher is kept. With
        `has_aux`, `(scores, aux)`.

    Raises:
        TypeError: for what is no loss; at scoring, for params that are not real
            floating-point arrays or hold statistics too, or a loss that is not a
            scalar; over batches, for a one-shot iterator.
        ValueError: at scoring, for params without leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w[0] * w[1])  # H = [[0, 1], [1, 0]]
        >>> gf.gradient_norm_preservation(loss_fn)(jnp.array([3.0, -1.0])).tolist()
        [9.0, 1.0]

    Reference:
        Lubana & Dick, A Gradient Flow Framework for Analyzing Network Pruning, ICLR
        2021.
    """
    return bind_measure("gradient_norm_preservation", loss_fn, has_aux=has_aux)
