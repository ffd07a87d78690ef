"""The small network that the authors' release scored, in JAX: see `tests/reference`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

FILE = Path(__file__).parents[1] / "reference" / "vgg_small.npz"
LAYERS = ("conv0", "conv1", "conv2")

Reference = Mapping[str, np.ndarray]


def read_reference() -> Reference:
    """Returns the arrays of the release."""
    with np.load(FILE) as file:
        return dict(file)


def params_of(reference: Reference) -> Any:
    """Returns the parameters in Flax's layout and names."""
    arrays = [reference[f"param|{i}"] for i in range(11)]
    tree = {"dense": {"kernel": arrays[9].T, "bias": arrays[10]}}
    for i in range(3):
        kernel, scale, bias = arrays[3 * i : 3 * i + 3]
        tree[f"conv{i}"] = {"kernel": kernel.transpose(2, 3, 1, 0)}
        tree[f"bn{i}"] = {"scale": scale, "bias": bias}
    return jax.tree.map(jnp.asarray, tree)


def batches_of(reference: Reference) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the three batches of images and labels."""
    size = int(reference["batch_size"])
    images, labels = jnp.asarray(reference["images"]), jnp.asarray(reference["labels"])
    return [
        (images[i : i + size], labels[i : i + size])
        for i in range(0, len(images), size)
    ]


def logits_of(reference: Reference) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the network in evaluation mode, `logits(params, images)`."""

    def logits(params: Any, x: jax.Array) -> jax.Array:
        for i in range(3):
            x = jax.lax.conv_general_dilated(
                x,
                params[f"conv{i}"]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            mean, variance = (reference[f"bnstat|{2 * i + j}"] for j in range(2))
            gain = params[f"bn{i}"]["scale"] / jnp.sqrt(variance + 1e-5)
            x = (jax.nn.relu(x) - mean) * gain + params[f"bn{i}"]["bias"]
            if i == 0:
                # `x.reshape(...).max(...)` will not do: its gradient asks which entries
                # equal the maximum, and XLA's CPU may compute those again with another
                # rounding.
                x = jax.lax.reduce_window(
                    x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
                )
        return (
            x.reshape(len(x), -1) @ params["dense"]["kernel"] + params["dense"]["bias"]
        )

    return logits


def loss_at(
    logits_fn: Callable[[Any, jax.Array], jax.Array], temperature: float
) -> Callable[[Any, Any], jax.Array]:
    """Returns the loss of a batch, the mean cross-entropy of logits / temperature."""

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        images, labels = batch
        logits = logits_fn(params, images) / temperature
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss_fn
