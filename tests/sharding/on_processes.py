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
from matplotlib.figure import Figure

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
        yield from looked_at(machine)
        yield from followed(machine)
    yield "page/masks", masks_as_on_the_page_of_scores()
    yield "error", np.asarray(error_of_a_bad_leaf(machine))
    if jax.process_count() > 1:
        yield "elsewhere", np.asarray(words_for_an_array_of_another_process())


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


def apply(params, x):
    hidden = jax.nn.relu(x @ params["in"]["kernel"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def looked_at(machine):
    """Yields what is computed of values that each process has to see."""
    whole = params_of(np.float32)
    params = machine.params(whole, "sharded")
    scores = gf.magnitude(params)
    x, y = X.astype(np.float32), Y.astype(np.float32)
    others = gf.loss_preservation(loss_fn)(params, machine.batch(x, y))
    masks = gf.global_masks(others, sparsity=0.7)
    for compare in (gf.scores.spearman, gf.scores.kendall):
        yield f"looked/{compare.__name__}", np.asarray(compare(scores, others))
    shared = gf.scores.top_overlap(scores, others, sparsity=0.5)
    yield "looked/top_overlap", np.asarray(shared)
    table = gf.scores.agreement({"a": scores, "b": others, "c": whole})
    yield "looked/agreement", table.values
    overlap = gf.overlap(masks, gf.global_masks(scores, sparsity=0.7))
    yield "looked/overlap", np.asarray(overlap)
    yield "looked/inverted", gf.masks.invert_scores(others)
    shuffled = gf.masks.shuffle_masks(jax.random.key(0), masks)
    yield "looked/shuffled", np.asarray([x.kept for x in gf.report(shuffled).layers])
    labels = machine.batch(Y[:, 0])[0]
    shuffled = gf.masks.shuffle_labels(jax.random.key(0), labels)
    yield "looked/labels", {"labels": shuffled}
    units = gf.find_units(apply, whole, x)
    arguments = apply, params, masks, machine.batch(x)[0]
    yield "looked/effective", gf.connectivity.effective_masks(*arguments)
    report = gf.connectivity.effective_report(*arguments, units=units)
    yield "looked/report", np.asarray(str(report))
    axes = Figure().subplots()
    picture = gf.plotting.mask_picture(axes, masks["in"]["kernel"])
    yield "looked/picture", np.asarray(picture.get_array())


def followed(machine):
    """Yields what is seen of training: along a run, in an optimizer, and recorded."""
    params = machine.params(params_of(np.float64), "sharded")
    batch = machine.batch(X.astype(np.float64), Y.astype(np.float64))
    units = gf.find_units(apply, params_of(np.float64), X.astype(np.float64))
    options = {"learning_rate": 2.0**-10, "units": units}
    tracker = gf.dynamics.track(loss_fn, **options)
    tx = optax.chain(optax.sgd(2.0**-10), tracker)
    record = gf.dynamics.Recorder(loss_fn, **options)
    run = gf.dynamics.gradient_descent(loss_fn, 2.0**-10)(params, [0, 1, 2], batch)
    yield "followed/run", run.params

    @jax.jit
    def step(params, state, batch):
        grads = jax.grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params, loss_args=(batch,))
        return optax.apply_updates(params, updates), state

    state, stepped = tx.init(params), params
    for _ in range(3):
        record(stepped, batch)
        stepped, state = step(stepped, state, batch)
    for name, evolution in {
        "run": gf.dynamics.follow(loss_fn, units=units)(run, batch),
        "tracked": gf.dynamics.tracked(state, params, units=units),
        "recorded": record.evolution(),
    }.items():
        rates = gf.dynamics.measured_rates(evolution)
        for number, leaf in enumerate(jax.tree.leaves((evolution, rates))):
            yield f"followed/{name} {number}", np.asarray(leaf)
    effects = gf.dynamics.removal_effects(loss_fn, scales=(1.0, 0.5))
    masks = gf.global_masks(gf.magnitude(params), sparsity=0.5)
    removal = effects(params, masks, batch)
    yield "followed/effects", {"of a removal": jnp.stack(removal)}


def words_for_an_array_of_another_process():
    """An array without a mesh that lies where this process cannot read it."""
    others = [d for d in jax.devices() if d.process_index != jax.process_index()]
    scores = jax.make_array_from_single_device_arrays(
        (8,), jax.sharding.SingleDeviceSharding(others[0]), [], dtype=jnp.float32
    )
    try:
        gf.trees.fetch({"kernel": scores}, "scores")
    except ValueError as error:
        return str(error)
    return "no error"


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
