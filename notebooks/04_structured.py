# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A truly smaller model
#
# *What is left of a convolutional network when whole channels go, how accurate is it,
# and how much faster does it run?*
#
# A mask saves no time: the zeros are computed with. Here we find the units of a network
# in its own program, score them, cut the lowest out of the arrays, train the small
# network on, and time it beside the full one.

# %%
# Takes the package from the checkout that this notebook stands in, where there is one,
# and elsewhere, as on Colab, from what SOURCE names. pip may add packages here but
# change none: the jax that is there fits the machine's accelerator and all that was
# built on it. So the versions of everything installed are constraints, and where they
# cannot be met pip says so instead of upgrading.
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = ""  # what pip installs where there is no checkout: a folder or an address

checkouts = [
    folder
    for folder in Path("here").resolve().parents
    if Path(folder, "gradflow_jax", "__init__.py").is_file()
]
if checkouts:
    sys.path.insert(0, str(checkouts[0]))
elif not SOURCE and not importlib.util.find_spec("gradflow_jax"):
    raise ValueError(
        "SOURCE is empty: write into this cell from where pip is to install "
        "gradflow_jax, the folder of a checkout or an address 'git+https://...'. The "
        "project has no name on a package index."
    )
needed = {
    "gradflow_jax": SOURCE,
    "chex": "chex",
    "diffrax": "diffrax",
    "flax": "flax",
    "matplotlib": "matplotlib",
    "optax": "optax",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
}
missing = [
    package for name, package in needed.items() if not importlib.util.find_spec(name)
]
if missing:
    there = {found.name: found.version for found in importlib.metadata.distributions()}
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "installed.txt")
        pins.write_text("\n".join(f"{name}=={there[name]}" for name in there if name))
        pip = [sys.executable, "-m", "pip", "install", "-q", "-c", str(pins)]
        subprocess.run([*pip, *missing], check=True)
    importlib.invalidate_caches()

# %%
import functools
import os
import statistics
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradflow_jax as gf
from gradflow_jax.plotting import (
    Curve,
    LayerShares,
    accuracy_against_sparsity,
    pruned_by_layer,
)

plt.rcParams["figure.dpi"] = 72

# %% tags=["sizes"]
SEED = 0
WIDTHS = (32, 64, 64)  # channels of the convolutions
BATCH = 64
STEPS = 150  # of training before channels are cut
FINE_TUNING_STEPS = 60  # after it
LEARNING_RATE = 2e-3
MEASURES = ("magnitude", "loss preservation", "random")
SPARSITIES = (0.5, 0.8, 0.95)  # of the FLOPs
ROUND_TO = 8  # cut layers keep a multiple of this
CHOSEN = 0.8  # the network that is looked at more closely
PAIRS = 30  # of timed forward passes

# %% [markdown]
# ## The network
#
# Three convolutions with batch norm and a classifier, in Flax linen, for the 8×8 digits
# of scikit-learn.

# %%
digits = load_digits()
images, test_images, labels, test_labels = train_test_split(
    (digits.images[..., None] / 16).astype(np.float32),  # [image, row, column, 1]
    digits.target,
    random_state=SEED,
    stratify=digits.target,
)


class Net(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, images, train=False):
        x = images
        for i, width in enumerate(self.widths):
            x = nn.Conv(width, (3, 3), strides=1 if i == 0 else 2, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return nn.Dense(10)(x.reshape(len(x), -1))


net = Net(WIDTHS)
variables = net.init(jax.random.key(SEED), images[:1])


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# %% [markdown]
# One training function serves the full network and the small ones: it takes `apply`,
# which for a cut network is what `gf.shrink` returns.

# %%
tx = optax.adam(LEARNING_RATE)


@functools.partial(jax.jit, static_argnames=("apply", "steps"))
def train(apply, variables, state, key, *, steps):
    def loss_fn(params, stats, images, labels):
        logits, updated = apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return cross_entropy(logits, labels), updated["batch_stats"]

    def step(carry, key):
        params, stats, state = carry
        chosen = jax.random.randint(key, (BATCH,), 0, len(images))
        batch = jnp.asarray(images)[chosen], jnp.asarray(labels)[chosen]
        grads, stats = jax.grad(loss_fn, has_aux=True)(params, stats, *batch)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), stats, state), None

    start = variables["params"], variables["batch_stats"], state
    keys = jax.random.split(key, steps)
    (params, stats, state), _ = jax.lax.scan(step, start, keys)
    return {"params": params, "batch_stats": stats}, state


@functools.partial(jax.jit, static_argnames="apply")
def accuracy(apply, variables):
    return jnp.mean(apply(variables, test_images).argmax(-1) == test_labels)


key, tuning_key = jax.random.split(jax.random.key(SEED + 1))
state = tx.init(variables["params"])
variables, state = train(net.apply, variables, state, key, steps=STEPS)
tuned, _ = train(net.apply, variables, state, tuning_key, steps=FINE_TUNING_STEPS)
dense = float(accuracy(net.apply, tuned))
print(f"test accuracy {accuracy(net.apply, variables):.1%} when cut")
print(f"              {dense:.1%} of the full network trained to the end")

# %% [markdown]
# ## What can be cut
#
# `gf.find_units` traces the network, without computing it, and finds which slices of
# which arrays go together. It needs no rule for any layer. `explain` says what it found
# of one array, and why an axis must stay.

# %%
units = gf.find_units(net, variables, test_images)
print(units)
print(f"\n{units.parameters():,} parameters, {units.flops():,} FLOPs a test batch\n")
print(units.explain("params/Dense_0/kernel"))

# %% [markdown]
# FLOPs are counted as multiply-accumulates. Each channel takes with it the filter that
# makes it, its batch norm, and the part of the next kernel that reads it.
#
# ## Score, choose, cut
#
# A measure scores the weights of a filter by its own rule. The loss below is the one
# of the network in evaluation mode, with the statistics that batch norm has gathered.
# Loss preservation needs the gradient alone, so `order=1` will do. `gf.choose_units`
# removes the lowest units until the budget of FLOPs is met: at most 95 % of a layer,
# and down to multiples of 8, since odd widths can be slower than wider ones.


# %%
def scoring_loss(params, images, labels):
    logits = net.apply({**variables, "params": params}, images)
    return cross_entropy(logits, labels)


derivatives = gf.differentiate(scoring_loss, order=1)(
    variables["params"], images, labels
)
rng = np.random.default_rng(SEED)
scores = {
    "magnitude": gf.score_units(derivatives, units, "magnitude"),
    "loss preservation": gf.score_units(derivatives, units, "loss_preservation"),
    "random": {family.name: rng.random(family.size) for family in units},
}


def choose(name, sparsity):
    return gf.choose_units(
        scores[name],
        units,
        sparsity=sparsity,
        budget="flops",
        floor=0.05,
        round_to=ROUND_TO,
    )


keep = choose("loss preservation", CHOSEN)
small = gf.shrink(net, units, keep)
weights = gf.cut(variables, units, keep)
small_state = gf.cut(state, units, keep)

for (path, whole), cut in zip(
    jax.tree_util.tree_leaves_with_path(variables["params"]),
    jax.tree.leaves(weights["params"]),
    strict=True,
):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    print(f"{name:20} {whole.shape!s:16} becomes {cut.shape}")

# %% [markdown]
# `gf.cut` cuts whatever mirrors the parameters: batch statistics above, and the moments
# of Adam, so that training goes on where it stood. The small network is the masked one,
# not an approximation of it. `gf.structured.cut_error` compares their outputs, relative
# to the largest one:

# %%
error = gf.structured.cut_error(variables, units, keep, test_images)
print(f"relative difference {error:.1e}")
print("the module's own code runs" if small.native else f"recorded, as {small.why}")
print(f"parameters {units.parameters(keep):9,} of {units.parameters():11,}")
print(f"FLOPs      {units.flops(keep):9,} of {units.flops():11,}")

# %% [markdown]
# ## How small, how accurate
#
# We cut by each measure to each fraction of the FLOPs, and train on for the same number
# of steps as the full network did.

# %%
before = {name: [] for name in MEASURES}
after = {name: [] for name in MEASURES}
removed = {name: [] for name in MEASURES}
for name in MEASURES:
    for sparsity in SPARSITIES:
        chosen = choose(name, sparsity)
        shrunk = gf.shrink(net, units, chosen)
        cut = gf.cut(variables, units, chosen)
        moments = gf.cut(state, units, chosen)
        removed[name].append(1 - units.flops(chosen) / units.flops())
        before[name].append(float(accuracy(shrunk, cut)))
        cut, _ = train(shrunk, cut, moments, tuning_key, steps=FINE_TUNING_STEPS)
        after[name].append(float(accuracy(shrunk, cut)))

fig, axes = plt.subplots(1, 2, figsize=(9, 4))
for ax, results in zip(axes, (before, after), strict=True):
    curves = {
        name: Curve(SPARSITIES, own, [0.0] * len(own)) for name, own in results.items()
    }
    accuracy_against_sparsity(ax, curves, dense=dense, removed="FLOPs")
axes[0].set_ylim(0, 1.03)
axes[0].set_title("after the cut")
axes[1].set_title(f"after {FINE_TUNING_STEPS} steps more")
axes[0].legend(frameon=False, loc="lower left")
fig.tight_layout()


def table(title, results):
    print(f"{title:20}" + "".join(f"{100 * s:6g} %" for s in SPARSITIES))
    for name, own in results.items():
        print(f"{name:20}" + "".join(f"{100 * value:8.1f}" for value in own))


table("test accuracy / %", after)
print(f"{'dense':20}{100 * dense:8.1f}\n")
table("FLOPs removed / %", removed)

# %% [markdown]
# The axes give the FLOPs that were asked for. More of them went, since layers keep
# multiples of a number, as the last table says. Mind the axis on the right, too: it is
# stretched over what is left of the differences. The cut hurts, and a few steps of
# training mend much of it. This is one seed, and each point is one network tested on
# few images, so differences of a percent mean little.
#
# Where do the channels go?

# %%
layers = [family.name.split("/")[1] for family in units]
shares = {
    name: LayerShares(
        [1 - flags.mean() for flags in choose(name, CHOSEN).values()],
        [0.0] * len(layers),
    )
    for name in MEASURES
}
fig, ax = plt.subplots(figsize=(6, 3.2))
pruned_by_layer(ax, layers, shares)
ax.set_title(f"Channels cut where {CHOSEN:.0%} of the FLOPs are to go")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
fig.tight_layout()

# %% [markdown]
# ## How fast
#
# The full network, the masked one and the small one take turns, so that whatever else
# the machine does slows all of them alike. Each ratio is the median over the rounds.

# %%
masks = units.masks(keep, variables)
masked = jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), variables, masks)
full = jax.jit(net.apply)
contestants = {
    "full": (full, variables),
    "masked": (full, masked),
    "small": (jax.jit(small), weights),
}


def seconds(run, own):
    begin = time.perf_counter()
    jax.block_until_ready(run(own, test_images))
    return time.perf_counter() - begin


for run, own in contestants.values():
    seconds(run, own)  # compiles
rounds = [
    {name: seconds(*contestant) for name, contestant in contestants.items()}
    for _ in range(PAIRS)
]
print(f"a batch of {len(test_images)} images on {jax.devices()[0].platform}")
for name in contestants:
    median = statistics.median(own[name] for own in rounds)
    ratios = sorted(own["full"] / own[name] for own in rounds)
    middle = f"{ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f}"
    print(
        f"{name:7} {1e3 * median:6.2f} ms, {statistics.median(ratios):5.2f} times as "
        f"fast as full (half of the rounds: {middle})"
    )
print(f"FLOPs   {units.flops() / units.flops(keep):.2f} times fewer")

# %% [markdown]
# The masked network takes as long as the full one, within what the machine's other work
# does to the times. How much of the saved FLOPs the small one turns into time depends
# on the machine and on the batch: what is not a convolution is paid for as well.
#
# ## Keep it
#
# `gf.save_cut` writes the weights and which of the original units they are.
# `gf.load_cut` needs neither the original weights nor the code that chose.

# %%
weights, _ = train(small, weights, small_state, tuning_key, steps=FINE_TUNING_STEPS)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "small.safetensors")
    gf.save_cut(path, weights, units, keep)
    size = os.path.getsize(path)
    saved = gf.load_cut(path)

found = gf.find_units(net, saved.original, test_images)
again = gf.shrink(net, found, saved.keep)
full_size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
same = jnp.array_equal(
    jax.jit(again)(saved.variables, test_images), jax.jit(small)(weights, test_images)
)
print(f"{size / 1024:.0f} KiB in the file, {full_size / 1024:.0f} KiB of full weights")
print(f"the same outputs to the bit: {same}")
print(
    f"test accuracy {accuracy(again, saved.variables):.1%}, the full one's {dense:.1%}"
)
