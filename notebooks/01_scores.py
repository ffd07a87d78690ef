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
# # Scores on your model
#
# *Which weights of a network matter to its loss, and do the measures of that agree?*
#
# A measure of importance in `gradflow_jax` is a transformation of a loss, as `jax.grad`
# is: it takes `loss_fn(params, ...)` and returns a function of the same arguments that
# gives a score for every weight. Higher scores are kept. This notebook computes scores
# of one network written in three ways, a plain pytree, a Flax linen module and a Flax
# NNX module, and checks what they say against the loss itself.

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
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from jax.flatten_util import ravel_pytree
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradflow_jax as gf

plt.rcParams["figure.dpi"] = 72

# %% tags=["sizes"]
SEED = 0
HIDDEN = 32  # neurons of the hidden layer
STEPS = 100  # of training, each on all training images
LEARNING_RATE = 0.01
SPARSITY = 0.9  # the fraction of the weights that the masks remove

# %% [markdown]
# ## A model and a loss
#
# The data are the handwritten digits of scikit-learn, 8×8 pixels, and the model is a
# plain pytree of arrays: one hidden layer, trained for a short while.

# %%
digits = load_digits()
images, test_images, labels, test_labels = train_test_split(
    (digits.data / 16).astype(np.float32),  # [image, pixel], from 0 to 1
    digits.target,
    random_state=SEED,
    stratify=digits.target,
)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def logits_of(params, images):
    hidden = nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def loss_fn(params, images, labels):
    return cross_entropy(logits_of(params, images), labels)


keys = jax.random.split(jax.random.key(SEED))
he = jax.nn.initializers.he_normal()
params = {
    "hidden": {"kernel": he(keys[0], (64, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
    "out": {"kernel": he(keys[1], (HIDDEN, 10)), "bias": jnp.zeros(10)},
}

tx = optax.adam(LEARNING_RATE)


@jax.jit
def step(params, state):
    grads = jax.grad(loss_fn)(params, images, labels)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state


state = tx.init(params)
for _ in range(STEPS):
    params, state = step(params, state)

accuracy = jnp.mean(logits_of(params, test_images).argmax(-1) == test_labels)
print(f"training loss {loss_fn(params, images, labels):.3f} nats")
print(f"test accuracy {accuracy:.1%} of {len(test_labels)} images")

# %% [markdown]
# ## Scores
#
# `gf.loss_preservation` takes the loss and returns a function with the loss's own
# arguments. What comes back has the tree and the shapes of the parameters, and holds
# |θ ⊙ ∂L/∂θ| of every weight.

# %%
loss_preservation = gf.loss_preservation(loss_fn)
scores = loss_preservation(params, images, labels)
jax.tree.map(jnp.shape, scores)

# %% [markdown]
# ## What a score says
#
# Removing weight θᵢ changes the loss, to first order, by −θᵢ ∂L/∂θᵢ: loss preservation
# is the size of that change. A network as small as this lets us check: we remove each
# weight of the kernels by itself and measure the loss.

# %%
flat, unravel = ravel_pytree(params)
prunable = jax.tree.map(lambda leaf: jnp.full(leaf.shape, leaf.ndim >= 2), params)
weights = np.flatnonzero(ravel_pytree(prunable)[0])  # those of kernels, not biases


def loss_without(i):
    return loss_fn(unravel(flat.at[i].set(0)), images, labels)


losses = jax.jit(lambda chosen: jax.lax.map(loss_without, chosen, batch_size=64))(
    jnp.asarray(weights)
)
change = np.abs(np.asarray(losses) - float(loss_fn(params, images, labels)))


def of_kernels(scores):
    return np.asarray(ravel_pytree(scores)[0])[weights]


# %%
found = of_kernels(scores)
shown = (found > 0) & (change > 1e-6)  # below is rounding, in float32
fig, ax = plt.subplots(figsize=(5, 4))
ax.loglog(found[shown], change[shown], ".", ms=3, alpha=0.5)
ends = [min(found[shown].min(), 1e-6), found.max()]
ax.plot(ends, ends, color="0.3", lw=1, label="change = score")
ax.set_xlabel("score by loss preservation / nats")
ax.set_ylabel("change of the loss / nats")
ax.set_title("Each weight removed by itself")
ax.legend(frameon=False)
ax.grid(color="0.93")
fig.tight_layout()

# %% [markdown]
# From the left to the right of the cloud the change grows with the score, over several
# powers of ten: the score tells the weights apart. It is not the change itself. The
# loss was trained towards a minimum, so the slope there is small. To remove a weight is
# a finite step up a curved valley, which often costs more than the slope says.
#
# ## All measures at the cost of one
#
# Every measure is made of the weights θ, the gradient ḡ and the product Hḡ of the
# Hessian with it. `gf.differentiate` evaluates them once, and `gf.score_all` reads the
# measures off. Which of them ranks the weights as the measured change of the loss does?
# Spearman's rank correlation says: 1 is the same order, 0 no relation.

# %%
derivatives = gf.differentiate(loss_fn)(params, images, labels)
all_scores = gf.score_all(derivatives)
all_scores["random"] = gf.random(jax.random.key(SEED))(params)


for name, own in all_scores.items():
    agreement = spearmanr(of_kernels(own), change).statistic
    print(f"{name:28} {agreement:+.2f}")

# %% [markdown]
# Random scores are the baseline. GraSP's score is signed: it removes the weights whose
# removal raises the gradient norm, which is another question than how much the loss
# changes. Taylor and loss preservation differ only in how they add up the weights of a
# unit, such as a filter; of single weights they are the same.
#
# ## Do the measures choose the same weights?
#
# A mask is a tree like the parameters, of bool, and `True` keeps. The overlap of two
# masks is the number of weights that both keep over the number that either keeps.

# %%
masks = {
    name: gf.global_masks(own, sparsity=SPARSITY) for name, own in all_scores.items()
}
names = list(masks)
overlaps = np.array([[gf.overlap(masks[a], masks[b]) for b in names] for a in names])

fig, ax = plt.subplots(figsize=(6.5, 5))
picture = ax.imshow(overlaps, vmin=0, vmax=1, cmap="Blues")
labels_of = [name.replace("_", " ") for name in names]
ax.set_xticks(range(len(names)), labels_of, rotation=40, ha="right")
ax.set_yticks(range(len(names)), labels_of)
for (i, j), value in np.ndenumerate(overlaps):
    color = "white" if value > 0.6 else "black"
    ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9)
fig.colorbar(picture, label="overlap of the kept weights")
ax.set_title(f"Masks at a sparsity of {SPARSITY:.0%}")
fig.tight_layout()

density = 1 - SPARSITY
print(f"two masks drawn by chance overlap by about {density / (2 - density):.2f}")

# %% [markdown]
# ## The same in Flax linen
#
# The parameters of a linen module are a pytree, so nothing changes. We give the module
# the weights from above and compare the scores.

# %%


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(HIDDEN, name="hidden")(images))
        return nn.Dense(10, name="out")(hidden)


linen_net = LinenNet()


def linen_loss(params, images, labels):
    return cross_entropy(linen_net.apply({"params": params}, images), labels)


linen_scores = gf.loss_preservation(linen_loss)(params, images, labels)


def largest_difference(a, b):
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(a, b, strict=True))


difference = largest_difference(jax.tree.leaves(scores), jax.tree.leaves(linen_scores))
print(f"largest score {of_kernels(scores).max():.1e}, difference {difference:.1e}")

# %% [markdown]
# ## The same in Flax NNX
#
# `nnx.split` takes a module apart into its structure and its parameters, and the loss
# puts it together again. Batch statistics and the like would be in `rest`.

# %%


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, HIDDEN, rngs=rngs)
        self.out = nnx.Linear(HIDDEN, 10, rngs=rngs)

    def __call__(self, images):
        return self.out(nnx.relu(self.hidden(images)))


nnx_net = NNXNet(nnx.Rngs(SEED))
for name, own in params.items():
    layer = getattr(nnx_net, name)
    layer.kernel[...], layer.bias[...] = own["kernel"], own["bias"]

graphdef, nnx_params, rest = nnx.split(nnx_net, nnx.Param, ...)


def nnx_loss(params, images, labels):
    return cross_entropy(nnx.merge(graphdef, params, rest)(images), labels)


nnx_scores = gf.loss_preservation(nnx_loss)(nnx_params, images, labels)
difference = largest_difference(jax.tree.leaves(scores), jax.tree.leaves(nnx_scores))
print(f"largest score {of_kernels(scores).max():.1e}, difference {difference:.1e}")

# %% [markdown]
# Three ways to write a network, one set of scores, up to rounding.
#
# ## What the masks keep
#
# `gf.report` counts what masks keep of each layer. Kernels are pruned, biases are not,
# unless you say otherwise with `prunable=`. The global threshold takes from each layer
# what the scores say.

# %%
print(gf.report(masks["loss_preservation"]))

# %% [markdown]
# The next notebook, `02_prune_and_finetune`, applies such masks in an optax optimizer
# and trains on.
