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
# # Gradient flow, and what it says of pruning
#
# *Why do some measures of importance prune better than others?*
#
# Lubana and Dick (ICLR 2021) answer by following the loss along gradient flow,
# dθ/dt = −∇L(θ), the limit of gradient descent in small steps. What pruning measures
# compute are rates along that flow: |θᵀg| is half the rate at which ‖θ‖² changes, and
# θᵀHg is what the removal of weights does to ‖g‖². From this the paper derives five
# observations. Here the flow is integrated, its rates are checked, and the five
# observations are tested on two networks of your own, with verdicts that are computed
# and may go against the paper.

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
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import gradflow_jax as gf
from gradflow_jax import dynamics, models, observations, plotting
from gradflow_jax.plotting import observations as drawing

plt.rcParams["figure.dpi"] = 72

# %% tags=["sizes"]
SEEDS = 5  # networks of each kind
EXAMPLES = 1000  # of the CNN
RESNET_EXAMPLES = 500
STEPS = 200  # of training
FINETUNING = 100  # steps after pruning
TIMES = 81  # of the flow
NETWORK = "resnet56"  # whose small stand-in is the second network

# %% [markdown]
# ## Along the flow
#
# A small network on scikit-learn's digits. `gf.dynamics.gradient_flow(loss_fn)`
# integrates the flow to a tolerance by diffrax, and `follow` evaluates the products of
# θ, g and Hg at each time: one second-order evaluation for all of them.

# %%
digits = load_digits()
images = (digits.images / 16).astype(np.float32)[..., None]  # [image, 8, 8, 1]
labels = digits.target
pixels = images.reshape(len(images), -1)


def loss_fn(params, x, y):
    logits = jnp.tanh(x @ params["first"]) @ params["last"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


keys = jax.random.split(jax.random.key(0))
params = {
    "first": jax.random.normal(keys[0], (64, 16)) / 8,
    "last": jax.random.normal(keys[1], (16, 10)) / 4,
}
batch = pixels[:200], labels[:200]
times = np.linspace(0.0, 8.0, TIMES)
run = gf.dynamics.gradient_flow(loss_fn)(params, times, *batch)
evolution = dynamics.follow(loss_fn)(run, *batch)
measured = dynamics.measured_rates(evolution)
predicted = dynamics.predicted_rates(evolution)

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
rates = {
    "dL/dt / nats per time": (measured.loss, predicted.loss),
    "d‖θ‖²/dt / 1 per time": (measured.model.theta2, predicted.model.theta2),
    "d‖g‖²/dt / nats² per time": (measured.model.g2, predicted.model.g2),
}
for ax, (name, (seen, said)) in zip(axes, rates.items(), strict=True):
    quantity = name.partition(" /")[0]
    check = plotting.PredictionCheck(evolution.times, seen, said)
    plotting.measured_and_predicted(
        ax, {quantity: check}, quantity=name, time="time of the flow"
    )
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# The points are finite differences of what was sampled along the flow, the lines are
# −‖g‖², −2θᵀg and −2gᵀHg at single points of it. How far apart are they?

# %%
for name, (seen, said) in rates.items():
    inner = slice(2, -2)  # where the differences are central
    error = np.max(np.abs(seen - said)[inner]) / np.max(np.abs(said))
    print(f"{name.partition(' /')[0]:9} largest error {error:.1e} of the largest rate")

# %% [markdown]
# ## What a removal does
#
# To the first order, removing weights changes the loss by −Σθg and ‖g‖² by −2Σθ⊙Hg.
# These are sums of the scores, so a measure is as good as this prediction. Shrinking
# the weights by a factor 1 − ε instead of removing them shows how far it reaches.

# %%
end = run.at(TIMES - 1)
masks = gf.global_masks(gf.magnitude(end), sparsity=0.8)
scales = (0.125, 0.25, 0.5, 1.0)
effects = gf.dynamics.removal_effects(loss_fn, scales=scales)(end, masks, *batch)
figure, ax = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
errors = {
    "loss, first order": abs(effects.loss - effects.loss_first),
    "loss, second order": abs(effects.loss - effects.loss_second),
    "‖g‖², first order": abs(effects.gradient_norm - effects.gradient_norm_first),
}
for i, (name, error) in enumerate(errors.items()):
    ax.loglog(scales, error, label=name, **plotting.look(i))
ax.set_xticks(scales, scales, minor=False)
ax.minorticks_off()
ax.set_xlabel("part of each weight removed, ε")
ax.set_ylabel("error of the prediction / nats, nats²")
ax.legend(fontsize=8)
ax.grid(color="0.93")
plt.show()
for name, said in (("first", effects.loss_first), ("second", effects.loss_second)):
    order = dynamics.convergence_order(scales, said, effects.loss)
    print(f"{name} order: the error of the loss falls as ε to the power {order:.2f}")

# %% [markdown]
# ## Five observations on a model of your own
#
# The model is ten lines of Flax, and nothing in it knows of pruning. `problem_of` takes
# a linen module, a class of NNX modules, or two functions `(init, apply)`; `observe`
# trains networks of several seeds, looks at each on its way, prunes it in the middle
# and fine-tunes it.


# %%
class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        for filters, strides in ((16, 1), (32, 2), (32, 2)):
            x = nn.relu(nn.Conv(filters, (3, 3), strides=strides)(x))
        return nn.Dense(10)(x.mean((1, 2)))


problem = observations.problem_of(CNN(), images[:EXAMPLES], labels[:EXAMPLES])
study = observations.Study(problem, steps=STEPS, finetuning=FINETUNING)
found = observations.observe(study, seeds=range(SEEDS))
print(found)

# %% [markdown]
# Each line is one claim of the paper as a number that is positive if the claim is true:
# its mean over the seeds, the interval of the mean at 95 %, and the verdict that
# follows. *Held* means that the whole interval is positive, *contradicted* that none of
# it is. The rest looks at the numbers behind.

# %% [markdown]
# **1. Larger weights converge faster.** The curves are the training loss after pruning
# by magnitude and by loss preservation, means over the seeds with a band of one
# deviation.
#
# **2. Loss preservation removes the weights that change slowest**, and **3. magnitude
# is related to it.** Over training, the rank correlation of the loss-preservation score
# with the change of θ² in the real run, and with |θ|.
#
# On the right: how much cuts by magnitude change the loss when the same weights go in
# more rounds, the largest cut of them and all together.

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
drawing.convergence(axes[0], found.first)
drawing.rank_correlations(axes[1], found.second, found.third)
drawing.change_by_rounds(axes[2], found.third)
for ax in axes:
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# **4. Increasing the gradient norm removes what raises the loss, and strips early
# layers.** On the left, the share of each layer that GraSP prunes, at two temperatures
# of its loss.
#
# **5. Preserving the gradient norm does better.** On the right, loss and ‖g‖² right
# after pruning and after fine-tuning.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
drawing.shares_by_depth(axes[0], found.fourth)
drawing.recovery(axes[1], found.fifth)
for ax in axes:
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## And on another network
#
# A small ResNet in Flax NNX, whose batch norm takes the statistics of the batch. What
# holds of one network need not hold of another.


# %%
def resnet(rngs: nnx.Rngs) -> nnx.Module:
    return models.MODELS[NETWORK]((8, 8, 1), 10, fast=True, rngs=rngs)


few = images[:RESNET_EXAMPLES], labels[:RESNET_EXAMPLES]
study = observations.Study(
    observations.problem_of(resnet, *few), steps=STEPS, finetuning=FINETUNING
)
other = observations.observe(study, seeds=range(SEEDS))

# %%
for (number, cnn), (_, residual) in zip(found.findings, other.findings, strict=True):
    print(f"({number}) {cnn.claim}")
    for name, one in (("CNN", cnn), ("ResNet", residual)):
        low, high = one.interval
        print(f"      {name:7}{one.verdict}: {low:+.3g} to {high:+.3g} {one.unit}")

# %% [markdown]
# ## What to take from it
#
# The rates are exact, since they are derivatives. The observations are statements about
# particular networks, and the list above says which of them held here. The same cells
# run on a model of yours: change `CNN`, the data, or the `Study`.
# In a terminal, `gradflow-jax observe` does the same on the networks of this package.
