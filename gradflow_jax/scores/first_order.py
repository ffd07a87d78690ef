"""Scores weights by the gradient: loss preservation, Taylor, Fisher and their kin."""

from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.evaluation import Jitted, evaluate_then
from gradflow_jax.scores.losses import LossFn, of_a_loss
from gradflow_jax.scores.normalization import ChannelScores, channel_scores
from gradflow_jax.scores.rules import RULES, bind_measure, first_order, per_weight
from gradflow_jax.trees import Params, Prunable


@of_a_loss("(params, batch)")
def loss_preservation(loss_fn: LossFn, *, has_aux: bool = False) -> Jitted:
    """Scores each weight by |θ ⊙ ḡ|: to first order, what its removal costs.

    Removing the lowest scores changes the loss least. Under gradient flow |θ ⊙ ḡ| is
    also, up to a constant, the speed at which the weight's squared norm changes: the
    measure removes the slowest weights and so keeps first-order dynamics. It
    resembles `taylor`, equal per weight, which differs on filters. SNIP is this
    measure at initialization. The trap: ḡ vanishes at a minimum of the training loss,
    and what is left to rank is noise; few data make it worse (use `gf.over_batches`).

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> scores`: a tree like params,
        float32 at least, non-negative, in units of the loss, higher is kept. With
        `has_aux`, `(scores, aux)`.

    Raises:
        TypeError: for what is no loss; at scoring, for params that are not real
            floating-point arrays or hold statistics too, or a loss that is not a
            scalar.
        ValueError: at scoring, for params without leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def loss_fn(params, x):
        ...     return jnp.mean(params["w"] * x)
        >>> loss_preservation = gf.loss_preservation(loss_fn)
        >>> params = {"w": jnp.array([-2.0, 1.0])}
        >>> loss_preservation(params, jnp.array([1.0, 4.0]))["w"].tolist()
        [1.0, 2.0]

    Reference:
        Lubana & Dick, A Gradient Flow Framework for Analyzing Network Pruning, ICLR
        2021; Molchanov et al., 2017; Lee et al. (SNIP), ICLR 2019.
    """
    return bind_measure("loss_preservation", loss_fn, has_aux=has_aux)


@of_a_loss("(params, batch)")
def biased_loss_preservation(
    loss_fn: LossFn, *, origin: Params | None = None, has_aux: bool = False
) -> Jitted:
    """Scores each weight by |θ| · |θ ⊙ ḡ|: loss preservation biased to large weights.

    It keeps the loss as loss preservation does and favors, among weights of equal
    effect, those whose removal moves the model most. With `origin`, the initial
    parameters θ₀, the bias is |θ − θ₀|, the distance trained, which says more about
    a weight than its size while the initialization still shows.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`.
        origin: θ₀, a tree like params, or None for zero. It is copied now, so that it
            stays when an NNX model trains whose state it is, and is an argument of the
            compiled function, not a constant in it.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> scores`: a tree like params,
        float32 at least, non-negative, in units of θ · loss, higher is kept. With
        `has_aux`, `(scores, aux)`.

    Raises:
        TypeError: for what is no loss; at scoring, for params or an origin that are not
            real floating-point arrays or hold statistics too, or a loss that is not a
            scalar.
        ValueError: at scoring, if origin is another tree than params, or holds their
            very arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w * jnp.array([1.0, 3.0]))
        >>> w = jnp.array([-2.0, 1.0])
        >>> gf.biased_loss_preservation(loss_fn)(w).tolist()
        [4.0, 3.0]
        >>> origin = jnp.array([-2.0, 0.0])
        >>> gf.biased_loss_preservation(loss_fn, origin=origin)(w).tolist()
        [0.0, 3.0]

    Reference:
        Lubana & Dick, ICLR 2021. The authors' release offers `use_init` for the
        second form, after Frankle & Carbin's magnitude increase.
    """
    name = "biased_loss_preservation"
    return bind_measure(name, loss_fn, origin=origin, has_aux=has_aux)


@of_a_loss("(params, batch)")
def taylor(loss_fn: LossFn, *, has_aux: bool = False) -> Jitted:
    """Scores each weight by |θ ⊙ ḡ|, and a *filter* by |Σ θ ⊙ ḡ|.

    Per weight it is loss preservation. Of a filter it is the first-order change of
    the loss when the whole filter goes: effects of opposite sign cancel. The trap:
    under train-mode batch normalization a filter's scale does not matter, so that
    Σ θ ⊙ ḡ = 0 and its score is noise; score with running statistics.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> scores`: a tree like params,
        float32 at least, non-negative, in units of the loss, higher is kept. With
        `has_aux`, `(scores, aux)`.

    Raises:
        TypeError: for what is no loss; at scoring, for params that are not real
            floating-point arrays or hold statistics too, or a loss that is not a
            scalar.
        ValueError: at scoring, for params without leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w * jnp.array([1.0, 3.0]))
        >>> gf.taylor(loss_fn)(jnp.array([-2.0, 1.0])).tolist()
        [2.0, 3.0]

    Reference:
        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019
        (TFO in the release of Lubana & Dick). Filters: `gf.score(..., roles=...)`.
    """
    return bind_measure("taylor", loss_fn, has_aux=has_aux)


@of_a_loss("(params, batch)")
def fisher(
    loss_fn: LossFn, *, per_example: bool = False, has_aux: bool = False
) -> Jitted:
    """Scores each weight by θ² ⊙ E[g²], a diagonal Fisher estimate of its saliency.

    With `per_example` E is the mean over examples, the empirical Fisher, which
    estimates the curvature where the mean gradient vanishes: use it for what is called
    Fisher pruning. By default E is the mean over the *batches'* gradients squared, as
    in the authors' release: it depends on the batch size, and of a single batch it is
    (θ ⊙ ḡ)², which ranks weights as loss preservation does. The square underflows: in
    float32 scores of |θ| √E[g²] below 1e-19 or so are 0.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`.
        per_example: take the gradient of each example by itself. The batch is then
            the one positional argument after params, and as many gradients as it has
            examples are in memory at once: use small batches. Score with running
            statistics: a batch of one is its own mean to batch norm.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> scores`: a tree like params,
        float32 at least, non-negative, in units of loss², higher is kept. With
        `has_aux`, `(scores, aux)`.

    Raises:
        TypeError: for what is no loss; at scoring, for params that are not real
            floating-point arrays or hold statistics too, a loss that is not a scalar,
            or `per_example` with several positional arguments.
        ValueError: at scoring, for params without leaves, or `per_example` where the
            gradients of a leaf's examples are 0 and the batch's is not.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w, x: jnp.mean(w * x)
        >>> w, x = jnp.array(2.0), jnp.array([1.0, 3.0])
        >>> float(gf.fisher(loss_fn)(w, x))  # 2² · (mean of x)²
        16.0
        >>> float(gf.fisher(loss_fn, per_example=True)(w, x))  # 2² · mean of x²
        20.0

    Reference:
        Theis et al., Faster gaze prediction with dense networks and Fisher pruning,
        2018; batches as in the release of Lubana & Dick, ICLR 2021.
    """
    return bind_measure("fisher", loss_fn, per_example=per_example, has_aux=has_aux)


@of_a_loss("(params, batch)")
def batch_norm_taylor(
    loss_fn: LossFn,
    *,
    per_example: bool = False,
    prunable: Prunable | None = None,
    names: tuple[str, str] = ("scale", "bias"),
    has_aux: bool = False,
) -> Jitted:
    """Scores each channel by γ² E[g_γ²] + β² E[g_β²], at its batch normalization.

    It is the Fisher score of the two parameters through which a whole channel passes.
    Like `batch_norm_scale` it scores channels, not weights, and so returns a dict.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`.
        per_example: take the gradient of each example by itself. The batch is then
            the one positional argument after params, and as many gradients as it has
            examples are in memory at once: use small batches. Score with running
            statistics: a batch of one is its own mean to batch norm.
        prunable: `prunable(path, leaf) -> bool` chooses layers by the path of their
            scales, `"block1/bn/scale"`.
        names: the names of γ and β in the layer; ("weight", "bias") in Equinox.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> scores`: a dict from each
        layer's path to non-negative scores of shape [channel], in units of loss².
        With `has_aux`, `(scores, aux)`.

    Raises:
        TypeError: for what is no loss; at scoring, for params that are not real
            floating-point arrays or hold statistics too, a loss that is not a scalar,
            or `per_example` with several positional arguments.
        ValueError: at scoring, if no normalization layer is found, or `per_example`
            where the gradients of a leaf's examples are 0 and the batch's is not.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def loss_fn(params, x):  # x: [batch, channel]
        ...     return jnp.mean(params["bn"]["scale"] * x + params["bn"]["bias"])
        >>> params = {"bn": {"scale": jnp.array([2.0, 1.0]), "bias": jnp.zeros(2)}}
        >>> scores = gf.batch_norm_taylor(loss_fn)(params, jnp.array([[2.0, 6.0]]))
        >>> scores["bn"].tolist()
        [4.0, 9.0]

    Reference:
        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019.
    """

    def batch_norm_taylor(d: Derivatives) -> ChannelScores:
        scores = per_weight(RULES["fisher"], d)
        return channel_scores("batch_norm_taylor", scores, prunable, names)

    return evaluate_then(
        batch_norm_taylor,
        loss_fn,
        squares="example" if per_example else "batch",
        has_aux=has_aux,
    )


@of_a_loss("(params, batch)")
def first_order_terms(loss_fn: LossFn, *, has_aux: bool = False) -> Jitted:
    """Evaluates θ ⊙ ḡ, the signed terms behind loss preservation and Taylor.

    To first order the loss *falls* by Σ θ ⊙ ḡ over the weights removed. A term is no
    score: it carries a sign, and its sum over any set of weights has a meaning. The
    signed terms of second order, θ ⊙ Hḡ, are `grasp`.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the
            batch; or `gf.over_batches(loss_fn)`. Called with an `nnx.Module`
            in place of params, it takes that: `loss_fn(model, *args, **kwargs)`.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A jitted function `(params, *args, **kwargs) -> terms`: a tree like params,
        float32 at least, in units of the loss. With `has_aux`, `(terms, aux)`.

    Raises:
        TypeError: at the call, for params that are not real floating-point arrays or
            a loss that is not a scalar.
        ValueError: at the call, for params without leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w * jnp.array([1.0, 3.0]))
        >>> gf.first_order_terms(loss_fn)(jnp.array([-2.0, 1.0])).tolist()
        [-2.0, 3.0]
    """
    return evaluate_then(first_order, loss_fn, has_aux=has_aux)
