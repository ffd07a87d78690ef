"""A convolution and the batch norm of what it makes: the part all networks share."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
from flax import nnx

from gradflow_jax.models.convolution import convolve
from gradflow_jax.trees import Params, named_leaves

Order = Literal["norm_first", "relu_first", "linear"]

# This is PyTorch's default for convolutions and linear layers, uniform in ±1/√fan_in:
# the bound is √(3 · scale / fan_in). All layers share the object, since Flax keeps it
# in the model, and models with different ones would be different to `jax.jit`.
UNIFORM = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# Flax before 0.12 has no list of its own, and since then it refuses plain ones.
module_list: Callable[[Iterable[nnx.Module]], Any] = getattr(nnx, "List", list)


class ConvNorm(nnx.Module):
    """A convolution without bias and the batch norm of its outputs, with ReLU or not.

    It is the one convention by which a norm's channels are matched with the filters
    that make them: filter i of the parameter at `path/conv/kernel`, along its last
    axis, is normalized by element i of `path/norm/scale`, `path/norm/bias` and of the
    running `path/norm/mean` and `path/norm/var`.

    The details are PyTorch's: zeros on every side, one for kernels of 3×3, where JAX's
    "SAME" would pad strided convolutions at the end only; ε = 1e-5; nine tenths of the
    running statistics are kept each step. Only the running variance differs: Flax
    averages the biased one. `model.train()` normalizes by the batch and
    `model.eval()` by the running statistics.

    Attributes:
        conv: the convolution.
        norm: the batch norm.
        order: which of norm and ReLU the outputs of the convolution meet first.
    """

    def __init__(
        self,
        before: int,
        after: int,
        size: int = 3,
        *,
        strides: int = 1,
        groups: int = 1,
        order: Order = "norm_first",
        rngs: nnx.Rngs,
    ):
        """Makes a layer from `before` channels to `after`.

        Args:
            before: the number of channels that go in.
            after: the number of filters.
            size: of the kernel, odd.
            strides: in both directions.
            groups: 1, or `before` for a depthwise convolution.
            order: "norm_first" (norm, ReLU), "relu_first" (ReLU, norm) or "linear"
                (norm alone).
            rngs: where the kernel's key comes from.

        Raises:
            ValueError: if the kernel's size is even or the order unknown.
        """
        if size % 2 == 0:
            raise ValueError(f"size is {size}; only an odd kernel is padded evenly.")
        if order not in ("norm_first", "relu_first", "linear"):
            raise ValueError(
                f'order is {order!r}; it is "norm_first", "relu_first" or "linear".'
            )
        self.conv = nnx.Conv(
            before,
            after,
            (size, size),
            strides,
            padding=((size // 2, size // 2), (size // 2, size // 2)),
            feature_group_count=groups,
            use_bias=False,
            conv_general_dilated=convolve,
            kernel_init=UNIFORM,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(after, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.order = order

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, height, width, channel] of an x of such a shape."""
        x = self.conv(x)
        if self.order == "relu_first":
            return self.norm(nnx.relu(x))
        x = self.norm(x)
        return nnx.relu(x) if self.order == "norm_first" else x


def linear(before: int, after: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear layer that starts as PyTorch's: uniform in ±1/√before."""
    layer = nnx.Linear(before, after, kernel_init=UNIFORM, rngs=rngs)
    # An initializer of the bias would have to know `before`, so each layer would have a
    # function of its own, and two equal models would be different to `jax.jit`.
    bound = before**-0.5
    bias = jax.random.uniform(rngs.params(), (after,), minval=-bound, maxval=bound)
    layer.bias = nnx.Param(bias)
    return layer


def normalized_kernels(params: Params) -> dict[str, str]:
    """Returns for each batch norm, by its path, the kernel whose filters it normalizes.

    Args:
        params: the parameters of a model, or of a part of one, made of `ConvNorm`.

    Returns:
        The path of a kernel by the path of its norm.

    Example:
        >>> layer = ConvNorm(3, 4, rngs=nnx.Rngs(0))
        >>> normalized_kernels({"stem": nnx.state(layer, nnx.Param)})
        {'stem/norm': 'stem/conv/kernel'}
    """
    scale, kernel = "norm/scale", "conv/kernel"
    return {
        path.removesuffix("/scale"): path.removesuffix(scale) + kernel
        for path, _ in named_leaves(params)
        if path.endswith(scale)
    }
