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
# # Prune and fine-tune
#
# *How many weights of a network can go, and does it matter which?*
#
# We train a network, mask its weights by several measures to several sparsities, and
# train on with optax. `gf.apply_mask`, last in the chain, keeps the pruned weights at
# exactly zero. First we show why it is needed, then we compare the measures.

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

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradflow_jax as gf
from gradflow_jax.plotting import Curve, accuracy_against_sparsity

plt.rcParams["figure.dpi"] = 72

# %% tags=["sizes"]
SEEDS = (0, 1, 2)  # of the initial weights, the batches and the random scores
HIDDEN = 128  # neurons of each of the two hidden layers
BATCH = 64
STEPS = 200  # of training before weights are pruned
FINE_TUNING_STEPS = 400  # after it
LEARNING_RATE = 2e-3
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)

# %% [markdown]
# ## The network and its training
#
# A multilayer perceptron in Flax linen on the handwritten digits of scikit-learn. The
# optimizer is AdamW with `gf.apply_mask` behind it. The masks are in its state, so one
# compiled function trains the dense network and every pruned one.

# %%
digits = load_digits()
images, test_images, labels, test_labels = train_test_split(
    (digits.data / 16).astype(np.float32),  # [image, pixel], from 0 to 1
    digits.target,
    random_state=0,
    stratify=digits.target,
)


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(HIDDEN)(images))
        hidden = nn.relu(nn.Dense(HIDDEN)(hidden))
        return nn.Dense(10)(hidden)


net = Net()


def loss_fn(params, images, labels):
    logits = net.apply({"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def accuracy(params):
    logits = net.apply({"params": params}, test_images)
    return jnp.mean(logits.argmax(-1) == test_labels)


tx = optax.chain(optax.adamw(LEARNING_RATE, weight_decay=1e-3), gf.apply_mask())


@functools.partial(jax.jit, static_argnames="steps")
def train(params, masks, key, *, steps):
    params = gf.prune(params, masks)
    state = optax.tree.set(tx.init(params), masks=masks)

    def step(carry, key):
        params, state = carry
        chosen = jax.random.randint(key, (BATCH,), 0, len(images))
        batch = jnp.asarray(images)[chosen], jnp.asarray(labels)[chosen]
        updates, state = tx.update(jax.grad(loss_fn)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, state), jax.random.split(key, steps))
    return params


def start(seed):
    init_key, key = jax.random.split(jax.random.key(seed))
    params = net.init(init_key, images[:1])["params"]
    return train(params, keep_all(params), key, steps=STEPS)


def keep_all(params):
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)


def tune(seed, params, masks):
    return train(params, masks, jax.random.key(100 + seed), steps=FINE_TUNING_STEPS)


started = {seed: start(seed) for seed in SEEDS}
dense = [float(accuracy(tune(s, p, keep_all(p)))) for s, p in started.items()]
size = sum(leaf.size for leaf in jax.tree.leaves(started[SEEDS[0]]))
print(f"{size:,} weights")
print("test accuracies when pruned:", *(f"{accuracy(p):.1%}" for p in started.values()))
print("dense, trained to the end:  ", *(f"{own:.1%}" for own in dense))

# %% [markdown]
# ## Pruned weights come back
#
# We remove nine tenths of the weights of one network by loss preservation. Then we take
# a few steps with three optimizers: a plain one; one whose *gradients* are masked; and
# one that ends with `gf.apply_mask`. All of them start with the moments that AdamW had
# gathered before the pruning, as they do where one prunes in the middle of training.

# %%
params = started[SEEDS[0]]
own_scores = gf.loss_preservation(loss_fn)(params, images, labels)
masks = gf.global_masks(own_scores, sparsity=0.9)
gradient = jax.grad(loss_fn)

adamw = optax.adamw(LEARNING_RATE, weight_decay=1e-3)
_, moments = adamw.update(gradient(params, images, labels), adamw.init(params), params)


def returned(optimizer, state, mask_gradients=False, steps=10):
    """Returns how many pruned weights are not zero, and the largest of them."""
    now = gf.prune(params, masks)
    for _ in range(steps):
        grads = gradient(now, images, labels)
        if mask_gradients:
            grads = gf.prune(grads, masks)
        updates, state = optimizer.update(grads, state, now)
        now = optax.apply_updates(now, updates)
    pruned = jax.tree.map(lambda leaf, mask: jnp.where(mask, 0, leaf), now, masks)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(pruned)])
    return np.count_nonzero(values), np.abs(values).max()


masked = optax.chain(adamw, gf.apply_mask(masks))
masked_moments = (moments, masked.init(params)[1])
total = gf.report(masks).size - gf.report(masks).kept
print(f"of {total:,} pruned weights")
for name, (count, largest) in {
    "plain AdamW": returned(adamw, moments),
    "masked gradients": returned(adamw, moments, mask_gradients=True),
    "gf.apply_mask": returned(masked, masked_moments),
}.items():
    print(f"{name:16} {count:6,} are not zero, the largest is {largest:.4f}")

# %% [markdown]
# Masking the gradients is not enough, since the moments go on moving what they moved
# before. `gf.apply_mask` edits the last update instead: the weight and its update add
# up to 0.0 to the bit, whatever the optimizer before it does.
#
# ## Which weights to remove
#
# Each measure ranks the weights of all layers together. We test each network as it is
# after pruning, and again when it has been trained for the steps that are left.

# %%
MEASURES = (
    "magnitude",
    "loss_preservation",
    "gradient_norm_preservation",
    "grasp",
    "random",
)
differentiate = gf.differentiate(loss_fn)
scores = {}
for seed, params in started.items():
    scores[seed] = gf.score_all(differentiate(params, images, labels))
    scores[seed]["random"] = gf.random(jax.random.key(200 + seed))(params)


def check_pruned_are_zero(params, masks):
    for leaf, mask in zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True):
        assert not np.asarray(leaf)[~np.asarray(mask)].any()


def accuracies(name, floor_of=lambda sparsity: 0.0):
    """Returns accuracies [seed, sparsity] after pruning and after fine-tuning."""
    before, after = np.zeros((2, len(SEEDS), len(SPARSITIES)))
    for i, (seed, params) in enumerate(started.items()):
        for j, sparsity in enumerate(SPARSITIES):
            masks = gf.global_masks(
                scores[seed][name], sparsity=sparsity, floor=floor_of(sparsity)
            )
            tuned = tune(seed, params, masks)
            before[i, j] = accuracy(gf.prune(params, masks))
            after[i, j] = accuracy(tuned)
            check_pruned_are_zero(tuned, masks)
    return before, after


found = {name: accuracies(name) for name in MEASURES}


def draw(ax, results):
    curves = {
        name.replace("_", " "): Curve(SPARSITIES, own.mean(0), own.std(0))
        for name, own in results.items()
    }
    accuracy_against_sparsity(ax, curves, dense=float(np.mean(dense)))
    ax.set_ylim(0, 1.03)


fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
draw(axes[0], {name: before for name, (before, _) in found.items()})
draw(axes[1], {name: after for name, (_, after) in found.items()})
axes[0].set_title("after pruning")
axes[1].set_title(f"after {FINE_TUNING_STEPS} steps more")
axes[1].set_ylabel("")
axes[1].legend(frameon=False, loc="lower left")
fig.tight_layout()

# %% [markdown]
# The points are means over the seeds, the bars standard deviations between them; the
# dotted line is the dense network, trained as long. Fine-tuning wins back much of what
# pruning cost, and brings the measures closer together: a network wider than its task
# can be trained without many of its weights, even of those that a random draw removes.
# GraSP was made for networks at initialization, and asks which weights raise the
# gradient norm; of a trained network it removes what the loss needs. These are the
# numbers after fine-tuning:

# %%


def table(results):
    print(f"{'test accuracy / %':28}" + "".join(f"{100 * s:6g} %" for s in SPARSITIES))
    for name, own in sorted(results.items(), key=lambda item: -item[1].mean()):
        print(f"{name:28}" + "".join(f"{100 * mean:8.1f}" for mean in own.mean(0)))
    print(f"{'dense':28}{100 * np.mean(dense):8.1f}")


table({name: after for name, (_, after) in found.items()})

# %% [markdown]
# ## Where the weights are left
#
# A ranking across layers may take nearly all of one layer, and through a layer of a few
# weights little can pass. This is what is left of each at the highest sparsity, for the
# first seed:

# %%
print(f"{'weights left':28}{'first':>8}{'second':>8}{'last':>8}")
for name in MEASURES:
    masks = gf.global_masks(scores[SEEDS[0]][name], sparsity=SPARSITIES[-1])
    kept = [layer.kept for layer in gf.report(masks).layers if layer.prunable]
    print(f"{name:28}" + "".join(f"{count:8,}" for count in kept))

# %% [markdown]
# `floor=` protects the best weights of each layer. Here every layer keeps at least half
# of the density that is asked for on the whole; the number of weights is the same.

# %%
floored = {
    name: accuracies(name, lambda sparsity: (1 - sparsity) / 2)[1] for name in MEASURES
}
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
draw(axes[0], {name: after for name, (_, after) in found.items()})
draw(axes[1], floored)
axes[0].set_title("fine-tuned, no floor")
axes[1].set_title("fine-tuned, a floor for each layer")
axes[1].set_ylabel("")
axes[0].legend(frameon=False, loc="lower left")
fig.tight_layout()

# %%
table(floored)

print(f"\ngained by the floor at {SPARSITIES[-1]:.0%}, in points")
for name, own in floored.items():
    gain = own[:, -1].mean() - found[name][1][:, -1].mean()
    print(f"{name:28}{100 * gain:+8.1f}")

# %% [markdown]
# The floor matters where a ranking had nearly emptied a layer. Where every layer keeps
# its share anyway, as it does with random scores, it changes nothing.
#
# All these networks are as slow as the dense one, since the zeros are computed with.
# `04_structured` removes whole channels, and gets a smaller and faster network.
