"""One of several processes that score, mask, train and save one model together.

`python on_processes.py <folder> <its number> <how many> <port>` writes what it found to
`<folder>/<how many>-<its number>.npz`; one process alone uses one device and no mesh.
"""

import functools
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves

# Whole numbers: their sums are exact in any order, so that bits can be compared.
RNG = np.random.default_rng(5)
PARAMS = {
    "in": {"kernel": RNG.integers(-2, 3, (8, 16))},
    "out": {"kernel": RNG.integers(-2, 3, (16, 4)), "bias": RNG.integers(-2, 3, 4)},
}
X, Y = RNG.integers(-1, 2, (16, 8)), RNG.integers(-2, 3, (16, 4))
MEASURES = {
    # Of the second order in float64, whose integers are large enough.
    "first": (gf.loss_preservation, np.float32),
    "second": (gf.gradient_norm_preservation, np.float64),
}


def params_of(dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)


def loss_fn(params, batch):
    x, y = batch
    out = (x @ params["in"]["kernel"]) @ params["out"]["kernel"] + params["out"]["bias"]
    return jnp.mean(jnp.sum((out - y) ** 2, 1))


class Alone:
    """One process, one device."""

    def params(self, tree, places):
        return jax.tree.map(jnp.asarray, tree)

    def batch(self, *arrays):
        return jax.tree.map(jnp.asarray, arrays)

    def whole(self, tree):
        return jax.tree.map(np.asarray, tree)


class Together:
    """Several processes, each with its own devices and its own part of the data."""

    def __init__(self):
        axis_types = (AxisType.Auto,)
        self.mesh = jax.make_mesh(
            (jax.device_count(),), ("data",), axis_types=axis_types
        )

    def params(self, tree, places):
        def placed(leaf):
            split = places == "sharded" and leaf.ndim == 2
            sharding = NamedSharding(self.mesh, P("data") if split else P())
            return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

        return jax.tree.map(placed, tree)

    def batch(self, *arrays):
        sharding = NamedSharding(self.mesh, P("data"))
        number, count = jax.process_index(), jax.process_count()

        def placed(array):
            own = np.split(array, count)[number]  # All that this process has read.
            return jax.make_array_from_process_local_data(sharding, own)

        return jax.tree.map(placed, arrays)

    def whole(self, tree):
        return jax.tree.map(
            lambda leaf: multihost_utils.process_allgather(leaf, tiled=True), tree
        )


CASES = [(order, places) for order in MEASURES for places in ("repeated", "sharded")]
# What many processes look at: each order and each way to lie once. What else can go
# wrong shows with two processes of two devices.
OF_MANY = [("first", "repeated"), ("second", "sharded")]


def found(machine, folder):
    """Yields `(name, tree)` of all that is compared."""
    many = jax.process_count() > 2
    for order, places in OF_MANY if many else CASES:
        name, (measure, dtype) = f"{order}/{places}", MEASURES[order]
        x, y = X.astype(dtype), Y.astype(dtype)
        params = machine.params(params_of(dtype), places)
        scores = measure(loss_fn)(params, machine.batch(x, y))
        batches = [machine.batch(x[:8], y[:8]), machine.batch(x[8:], y[8:])]
        over_batches = measure(gf.over_batches(loss_fn))(params, batches)
        yield f"{name}/scores", scores
        yield f"{name}/scores over batches", over_batches
        masks = gf.global_masks(scores, sparsity=0.7, floor=0.1)
        again = gf.global_masks(over_batches, sparsity=0.8, previous=masks)
        yield f"{name}/masks", masks
        yield f"{name}/masks again", again
        yield f"{name}/masks by layer", gf.layerwise_masks(scores, sparsity=0.5)
        yield f"{name}/kept", np.asarray([x.kept for x in gf.report(masks).layers])
        for leaf, own in zip(
            *map(jax.tree.leaves, ((scores, masks["in"]), (params, params["in"]))),
            strict=True,
        ):
            same = leaf.sharding.is_equivalent_to(own.sharding, own.ndim)
            assert same, f"{leaf.sharding}, not {own.sharding}"
    if not many:
        yield from trained(machine, folder)
        yield from cut(machine, folder)
    yield "page/masks", masks_as_on_the_page_of_scores()
    yield "error", np.asarray(error_of_a_bad_leaf(machine))


def trained(machine, folder):
    """Yields masked steps, then those from a checkpoint."""
    params = machine.params(params_of(np.float32), "sharded")
    masks = gf.global_masks(gf.magnitude(params), sparsity=0.6)
    tx = optax.chain(optax.sgd(0.5, momentum=0.5), gf.apply_mask(masks, packed=True))
    state = tx.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, state)
    saved = {"params": params, "state": state, "masks": masks}
    with ocp.StandardCheckpointer() as checkpointer:
        path = folder / f"checkpoint-{jax.process_count()}"
        checkpointer.save(path, saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(
            path, jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        )
    yield "trained/masks", restored["masks"]
    params, state = step(restored["params"], restored["state"])
    yield "trained/params", params


def cut(machine, folder):
    """Yields unit scores, and what a cut leaves of parameters and of moments."""

    def apply(params, x):
        hidden = jax.nn.relu(x @ params["in"]["kernel"])
        return hidden @ params["out"]["kernel"] + params["out"]["bias"]

    whole = params_of(np.float32)
    params = machine.params(whole, "sharded")
    units = gf.find_units(apply, whole, X.astype(np.float32))
    for scope in ("producing", "all"):
        scores = gf.score_units(params, units, scope=scope)
        yield f"cut/scores of {scope}", scores["in/kernel[1]"]
    keep = gf.choose_units(scores, units, sparsity=0.5)
    moments = optax.adam(0.1).init(params)[0]._replace(mu=params)
    small = gf.cut({"params": params, "moments": moments}, units, keep)
    for leaf, own in zip(*map(jax.tree.leaves, (small["params"], params)), strict=True):
        assert leaf.sharding.is_equivalent_to(own.sharding, own.ndim)
    yield "cut/params", small["params"]
    yield "cut/moments", small["moments"].mu
    file = folder / f"cut-{jax.process_count()}-{jax.process_index()}.safetensors"
    gf.save_cut(file, small["params"], units, keep)
    for path, leaf in named_leaves(gf.load_cut(file).variables):
        yield f"cut/saved/{path}", np.asarray(leaf)


def masks_as_on_the_page_of_scores():
    """Runs that page's lines for many hosts, on this process's part of the data."""
    (block,) = re.findall(
        r"^(>>> from jax.sharding.+?)\n\n", gf.scores.__doc__, re.DOTALL | re.MULTILINE
    )
    lines = [line[4:] for line in block.splitlines()]
    # Done by `main`, which must name the others: here is no cluster to ask.
    lines.remove("jax.distributed.initialize()  # doctest: +SKIP")
    number, count = jax.process_index(), jax.process_count()
    images, labels = (np.split(array.astype(float), count)[number] for array in (X, Y))
    names = {
        **{"jax": jax, "optax": optax, "gf": gf, "images": images, "labels": labels},
        "params": params_of(float),
        "loss_fn": lambda params, *batch: loss_fn(params, batch),
    }
    exec("\n".join(lines), names)
    kernels = names["masks"]["in"]["kernel"], names["params"]["in"]["kernel"]
    assert len({leaf.addressable_shards[0].data.shape for leaf in kernels}) == 1
    return names["masks"]


def error_of_a_bad_leaf(machine):
    kernel = np.ones((8, 16), np.float32)
    kernel[3, 5] = np.nan
    try:
        scores = machine.params({"good": np.ones((4, 4)), "bad": kernel}, "sharded")
        gf.global_masks(scores, sparsity=0.5)
    except ValueError as error:
        return str(error)
    return "no error"


def main(folder, number, count, port):
    """Joins the others, computes, and writes what this process has seen."""
    jax.config.update("jax_enable_x64", True)
    machine = Alone()
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", count, number)
        assert jax.process_count() == count
        machine = Together()
    arrays = {
        f"{name}/{path}": leaf
        for name, tree in found(machine, folder)
        for path, leaf in named_leaves(
            tree if isinstance(tree, np.ndarray) else machine.whole(tree)
        )
    }
    np.savez(folder / f"{count}-{number}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
