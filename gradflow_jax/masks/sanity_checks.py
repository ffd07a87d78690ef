"""Makes what a method has to beat: shuffled masks, inverted scores, corrupted data.

If the network is as good with the mask shuffled within each layer, the method has told
how many weights each layer needs and not which; if it is as good with masks from
corrupted data, it has not looked at the data. Each function makes the altered masks,
scores or data; the training stays that of the method itself. Whether the masks work
with new initial weights too is seen by `gf.prune(model.init(new_key, ...), masks)`.
"""

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection.placement import on_every_device, place_like
from gradflow_jax.trees import (
    Masks,
    Patterns,
    Prunable,
    Scores,
    check_floating,
    check_key,
    check_masks,
    default_prunable,
    describe,
    prunable_flags,
)
from gradflow_jax.trees.numbers import check_choice


def shuffle_masks(
    key: jax.Array,
    masks: Masks,
    *,
    scope: Literal["layer", "network"] = "layer",
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Masks:
    """Shuffles which weights are kept: how many of each layer, or in all, stays.

    Within each layer it makes a random mask with the same number of weights, all such
    masks being equally likely: the random tickets of Su et al. A method that is no
    better has chosen the sizes of layers and not their weights. Over the network even
    the sizes are random.

    Args:
        key: `jax.random.key(seed)`. The same key gives the same masks.
        masks: a tree of bool, True keeps.
        scope: "layer" shuffles each prunable leaf by itself; "network" all of them
            together.
        prunable: `prunable(path, leaf) -> bool`; the other leaves stay as they are.
        ignore: a path or shell pattern, or several: leaves that stay as they are too.

    Returns:
        Masks: a tree like masks, which keeps as many weights of each layer, or of the
        prunable leaves together.

    Raises:
        TypeError: for what is no key, or if a leaf is not bool.
        ValueError: if no leaf is prunable or `scope` is neither.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> masks = {"kernel": jnp.array([[True, False, False]])}
        >>> int(gf.masks.shuffle_masks(jax.random.key(0), masks)["kernel"].sum())
        1

    Reference:
        Frankle et al., Pruning Neural Networks at Initialization: Why are We Missing
        the Mark?, ICLR 2021. Su et al., Sanity-Checking Pruning Methods: Random
        Tickets can Win the Jackpot, NeurIPS 2020.
    """
    check_choice(scope, ["layer", "network"], "scope")
    check_key(key)
    check_masks(masks)
    leaves, structure = jax.tree.flatten(masks)
    flags = prunable_flags(masks, prunable, ignore)
    pruned = [i for i, flag in enumerate(flags) if flag]
    groups = [pruned] if scope == "network" else [[i] for i in pruned]
    keys = jax.random.split(key, len(groups))
    for group, group_key in zip(groups, keys, strict=True):
        flat = jnp.concatenate([jnp.ravel(on_every_device(leaves[i])) for i in group])
        shuffled = jax.random.permutation(group_key, flat)
        for i in group:
            part, shuffled = jnp.split(shuffled, [jnp.size(leaves[i])])
            leaves[i] = place_like(part.reshape(jnp.shape(leaves[i])), leaves[i])
    return structure.unflatten(leaves)


def invert_scores(
    scores: Scores, *, prunable: Prunable = default_prunable, ignore: Patterns = ()
) -> Scores:
    """Turns scores round, so that what mattered most is pruned first.

    If the network is as good with inverted scores, they have not found what matters.

    Args:
        scores: a tree of real floating-point arrays.
        prunable: `prunable(path, leaf) -> bool`; the other leaves stay as they are.
        ignore: a path or shell pattern, or several: leaves that stay as they are too.

    Returns:
        Scores: a tree like scores, −score where prunable.

    Raises:
        TypeError: if a leaf is not a real floating-point array.
        ValueError: if no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = gf.masks.invert_scores({"kernel": jnp.array([[3.0, 1.0]])})
        >>> gf.global_masks(scores, sparsity=0.5)["kernel"].tolist()
        [[False, True]]

    Reference:
        Frankle et al., ICLR 2021.
    """
    check_floating(scores, "scores")
    flags = jax.tree.structure(scores).unflatten(
        prunable_flags(scores, prunable, ignore)
    )
    return jax.tree.map(lambda leaf, flag: -leaf if flag else leaf, scores, flags)


def shuffle_labels(key: chex.PRNGKey, labels: chex.Array) -> jax.Array:
    """Gives each example another one's label: the classes stay as frequent as they are.

    Args:
        key: `jax.random.key(seed)`.
        labels: [batch, ...], integers or one-hot; only the first axis is shuffled.

    Returns:
        The labels in another order.

    Raises:
        TypeError: for what is no key, or labels that are no numbers.
        ValueError: if labels have no axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> gf.masks.shuffle_labels(jax.random.key(0), jnp.arange(4)).sum().item()
        6

    Reference:
        Su et al., NeurIPS 2020, whose release draws new labels instead.
    """
    check_key(key)
    labels = _array_of_numbers(labels, "labels")
    if labels.ndim == 0:
        raise ValueError(
            f"labels are {describe(labels)}; pass the labels of a batch, [batch]."
        )
    shuffled = jax.random.permutation(key, on_every_device(jnp.asarray(labels)))
    return place_like(shuffled, labels)


def shuffle_pixels(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shuffles the numbers of each image by itself: what it shows is lost.

    Args:
        key: `jax.random.key(seed)`.
        images: [batch, ...], such as [batch, height, width, channel].

    Returns:
        Images of the same shape, the numbers of each, of all its channels together, in
        an order of its own.

    Raises:
        TypeError: for what is no key, or images that are no numbers.
        ValueError: if images have no axis but the batch's, or hold nothing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> images = jnp.arange(8.0).reshape(2, 2, 2, 1)
        >>> gf.masks.shuffle_pixels(jax.random.key(0), images).sum((1, 2, 3)).tolist()
        [6.0, 22.0]

    Reference:
        Su et al., NeurIPS 2020, whose release shuffles in the same way.
    """
    check_key(key)
    array = _array_of_numbers(images, "images")
    if array.ndim < 2 or not array.size:
        raise ValueError(
            f"images are {describe(array)}; pass a batch, [batch, height, width, "
            "channel]."
        )
    flat = jnp.reshape(on_every_device(array), (len(array), -1))
    keys = jax.random.split(key, len(flat))
    shuffled = jax.vmap(jax.random.permutation)(keys, flat)
    return place_like(shuffled.reshape(array.shape), array)


def _array_of_numbers(values: Any, what: str) -> jax.Array | np.ndarray:
    """Returns an array, or a list of numbers, as an array.

    Raises:
        TypeError: for what holds no numbers.
    """
    array: Any = values
    try:
        array = values if isinstance(values, jax.Array) else np.asarray(values)
        kinds = (jnp.number, jnp.bool_)
        is_numeric = any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
    except (TypeError, ValueError):
        # NumPy makes no array of lists of several lengths, and JAX knows no dates.
        is_numeric = False
    if not is_numeric:
        kind = getattr(values, "dtype", type(values).__name__)
        raise TypeError(f"{what} are {kind}; pass an array of numbers.")
    return array
