"""Other ways to the same mask: those one would write, and those of other libraries.

Each is made of a list of scores and a number to keep, and returns a function of nothing
that gives the masks as a list; None where the library is not there.
"""

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Way = Callable[[], Any]
Leaves = Sequence[jax.Array]


def _split(flat: jax.Array, like: Leaves) -> list[jax.Array]:
    ends = np.cumsum([leaf.size for leaf in like])[:-1]
    parts = jnp.split(flat, ends)
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, like, strict=True)]


def by_reading(leaves: Leaves) -> Way:
    """One read of all scores: no mask, but what memory allows."""
    read = jax.jit(lambda leaves: [jnp.max(leaf) for leaf in leaves])
    return lambda: read(leaves)


def by_sorting(leaves: Leaves, keep: int) -> Way:
    """A stable sort of all scores, joined; exact, ties by index."""

    @jax.jit
    def masks(leaves: Leaves) -> list[jax.Array]:
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        first = jnp.argsort(flat, stable=True, descending=True)[:keep]
        return _split(jnp.zeros(flat.size, bool).at[first].set(True), leaves)

    return lambda: masks(leaves)


def by_numpy(leaves: Leaves, keep: int) -> Way:
    """`np.partition` on the host; of equal scores at the threshold it keeps all."""
    arrays = [np.asarray(leaf) for leaf in leaves]

    def masks() -> list[np.ndarray]:
        flat = np.concatenate([array.reshape(-1) for array in arrays])
        flat.partition(flat.size - keep)
        return [array >= flat[flat.size - keep] for array in arrays]

    return masks


def by_top_k(leaves: Leaves, keep: int) -> Way:
    """`jax.lax.top_k` of all scores, joined."""

    @jax.jit
    def masks(leaves: Leaves) -> list[jax.Array]:
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        _, chosen = jax.lax.top_k(flat, keep)
        return _split(jnp.zeros(flat.size, bool).at[chosen].set(True), leaves)

    return lambda: masks(leaves)


def by_torch(leaves: Leaves, keep: int) -> Way | None:
    """`torch.kthvalue`; of equal scores at the threshold it keeps all."""
    return _by_torch(leaves, lambda flat: flat.kthvalue(flat.numel() - keep + 1).values)


def by_torch_top_k(leaves: Leaves, keep: int) -> Way | None:
    """`torch.topk`; of equal scores at the threshold it keeps all."""
    return _by_torch(leaves, lambda flat: flat.topk(keep, sorted=False).values.min())


def _by_torch(leaves: Leaves, threshold_of: Callable[[Any], Any]) -> Way | None:
    if importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    rival = importlib.import_module("torch_networks")
    tensors = [torch.from_numpy(np.array(leaf)).to(rival.DEVICE) for leaf in leaves]

    def masks() -> Any:
        threshold = threshold_of(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        return rival.finished([tensor >= threshold for tensor in tensors])

    return masks


def by_jaxpruner(leaves: Leaves, sparsity: float) -> Way | None:
    """Its global magnitude pruning, from the checkout that JAXPRUNER names."""
    checkout = os.environ.get("JAXPRUNER")
    if not checkout:
        return None
    if "jaxpruner" not in sys.modules:
        # Its __init__ imports more than is needed here, and than may be installed.
        package = types.ModuleType("jaxpruner")
        package.__path__ = [str(Path(checkout) / "jaxpruner")]
        sys.modules["jaxpruner"] = package
    pruners = importlib.import_module("jaxpruner.algorithms.global_pruners")
    pruner = pruners.GlobalMagnitudePruning(
        use_normalization=False, filter_fn=lambda path, leaf: True
    )
    scores = {f"leaf{i:04}": leaf for i, leaf in enumerate(leaves)}
    masks = jax.jit(lambda scores: pruner.create_masks(scores, sparsity))
    return lambda: list(masks(scores).values())
