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
# # Choose a measure
#
# *Which measure of importance should prune your model, and does it beat chance?*
#
# All measures of this package are computed from one evaluation of gradients, so trying
# them costs little. This notebook compares them on one network, in four steps: do they
# agree, which keeps the most accuracy, does the best one pass the sanity checks of the
# field, and is what it keeps connected?

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
import warnings

import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gradflow_jax as gf
from gradflow_jax import observations, plotting

# Weights behind dead units have the score 0, and of these positions decide below.
warnings.simplefilter("ignore", gf.masks.EqualScoresWarning)

plt.rcParams["figure.dpi"] = 72

# %% tags=["sizes"]
SEEDS = 3
TRAIN = 1000  # images; the rest are to test
STEPS = 150  # of training
FINETUNING = 60  # steps after pruning
SPARSITIES = (0.8, 0.9, 0.95)
CHECKED = 0.9  # the sparsity of the sanity checks

# %% [markdown]
# ## A network
#
# A convolutional network on scikit-learn's digits. `observations.Study` trains it with
# SGD and momentum, masked or not; use your own loop if you have one.

# %%
digits = load_digits()
images = (digits.images / 16).astype(np.float32)[..., None]  # [image, 8, 8, 1]
order = np.random.default_rng(0).permutation(len(images))
images, labels = images[order], digits.target[order]


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        for filters, strides in ((16, 1), (32, 2), (32, 2)):
            x = nn.relu(nn.Conv(filters, (3, 3), strides=strides)(x))
        return nn.Dense(10)(x.mean((1, 2)))


problem = observations.problem_of(CNN(), images[:TRAIN], labels[:TRAIN])
study = observations.Study(problem, steps=STEPS, floor=0.02)


@jax.jit
def accuracy(params):
    return (problem.apply(params, images[TRAIN:]).argmax(1) == labels[TRAIN:]).mean()


def trained(seed):
    kept, _ = study.train(problem.init(jax.random.key(seed)), STEPS, seed=seed)
    return kept[STEPS]


def finetuned(params, masks, seed, steps=FINETUNING):
    kept, _ = study.train(params, steps, seed=seed + 100, masks=masks)
    return kept[steps]


networks = [trained(seed) for seed in range(SEEDS)]
dense = np.mean([accuracy(params) for params in networks])
print(f"{SEEDS} networks, {100 * dense:.1f} % of the test images right")

# %% [markdown]
# ## Do the measures agree?
#
# `gf.differentiate` gives θ, g and Hg once, `gf.score_all` every measure from it.
# `gf.scores.agreement` correlates their ranks.


# %%
def scores_of(params, seed):
    derivatives = study.derivatives(params)
    found = gf.score_all(derivatives)
    found.pop("taylor")  # weight by weight it is loss preservation
    return {**found, "random": gf.random(jax.random.key(seed))(params)}


scores = [scores_of(params, seed) for seed, params in enumerate(networks)]
measures = list(scores[0])
agreement = gf.scores.agreement(scores[0])
figure, ax = plt.subplots(figsize=(6.5, 5.5), layout="constrained")
plotting.correlation_matrix(
    ax, agreement.names, agreement.values, quantity="Spearman's ρ of scores"
)
plt.show()

# %%
pairs = [
    (agreement.values[i, j], measures[i], measures[j])
    for i in range(len(measures))
    for j in range(i)
]
for rho, a, b in (max(pairs), min(pairs)):
    print(f"ρ = {rho:+.2f}: {a} and {b}")

# %% [markdown]
# Measures that rank alike prune alike. Near 0, as against `random`, two rankings have
# nothing in common.

# %% [markdown]
# ## Which keeps the most accuracy?
#
# Each network is pruned by each measure at each sparsity, and fine-tuned. No layer
# loses more than 98 % of its weights.

# %%
after = np.zeros((len(measures), len(SPARSITIES), SEEDS))
for i, measure in enumerate(measures):
    for j, sparsity in enumerate(SPARSITIES):
        for seed, params in enumerate(networks):
            masks = study.masks(scores[seed][measure], sparsity=sparsity)
            after[i, j, seed] = accuracy(finetuned(params, masks, seed))

curves = {
    measure: plotting.Curve(SPARSITIES, own.mean(1), own.std(1, ddof=1))
    for measure, own in zip(measures, after, strict=True)
}
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
plotting.accuracy_against_sparsity(ax, curves, dense=dense)
ax.legend(fontsize=8)
plt.show()

# %%
at = SPARSITIES.index(CHECKED)
ranking = sorted(measures, key=lambda name: -after[measures.index(name), at].mean())
for measure in ranking:
    own = 100 * after[measures.index(measure), at]
    print(f"{measure:28}{own.mean():5.1f} ± {own.std(ddof=1):.1f} %")
best = next(name for name in ranking if name != "random")
print(f"\nAt {CHECKED:.0%} the first of the measures is {best}.")

# %% [markdown]
# ## Does it do more than chance?
#
# Frankle et al. (2021) and Su et al. (2020) ask of a method: is the network as good if
# its mask is shuffled within each layer? Then only the layers' shares matter. Or if the
# scores are inverted, or come from corrupted labels? Then they say nothing of the task.
# And what if the weights start anew, under the same mask, and are trained as long as
# the others were in all? (Magnitude looks at no label: corrupted ones cannot hurt it.)


# %%
def corrupted(params, seed):
    x, y = problem.data
    shuffled = x, gf.masks.shuffle_labels(jax.random.key(seed), y)
    return gf.score(gf.differentiate(problem.loss)(params, shuffled), best)


def variants(params, seed):
    key = jax.random.key(seed)
    own = scores[seed][best]
    masks = study.masks(own, sparsity=CHECKED)
    inverted = study.masks(gf.masks.invert_scores(own), sparsity=CHECKED)
    return {
        best: (params, masks, FINETUNING),
        "shuffled in layers": (params, gf.masks.shuffle_masks(key, masks), FINETUNING),
        "shuffled in the network": (
            params,
            gf.masks.shuffle_masks(key, masks, scope="network"),
            FINETUNING,
        ),
        "scores inverted": (params, inverted, FINETUNING),
        "labels corrupted": (
            params,
            study.masks(corrupted(params, seed), sparsity=CHECKED),
            FINETUNING,
        ),
        "weights new": (
            problem.init(jax.random.key(seed + 1000)),
            masks,
            STEPS + FINETUNING,
        ),
    }


checks = {}
for seed, params in enumerate(networks):
    for name, (start, masks, steps) in variants(params, seed).items():
        reached = accuracy(finetuned(start, masks, seed, steps))
        checks.setdefault(name, []).append(float(reached))

figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for row, own in enumerate(checks.values()):
    look = {**plotting.look(row), "linestyle": "none"}
    ax.plot(100 * np.array(own), [row] * SEEDS, **look)
ax.axvline(100 * dense, color="0.5", linestyle=":", label="dense")
ax.set_yticks(range(len(checks)), checks)
ax.invert_yaxis()
ax.set_xlabel(f"test accuracy at {CHECKED:.0%} sparsity, one point a seed / %")
ax.legend(fontsize=8)
plt.show()

# %%
own = np.array(checks[best])
for name, values in checks.items():
    if name != best:
        lost = observations.finding(f"{best} is better than {name}", own - values, "")
        print(f"{lost.claim}: {lost.verdict}, by {100 * lost.mean:+.1f} points")

# %% [markdown]
# ## Is what it keeps connected?
#
# A kept weight does nothing if no path of kept weights leads through it from the input
# to the output (Vysogorets & Kempe, 2023). `gf.connectivity.effective_report` reads the
# paths from the model's program. Here the best measure, with no floor for any layer, at
# the highest sparsity of all.

# %%
params, highest = networks[0], 0.99
masks = gf.global_masks(scores[0][best], sparsity=highest)
report = gf.connectivity.effective_report(problem.apply, params, masks, images[:1])
print(report)

# %%
layers = [
    (own.path, 1 - own.kept / own.size, 1 - left.kept / left.size)
    for own, left in zip(report.direct.layers, report.effective.layers, strict=True)
    if own.prunable
]
layers.sort(key=lambda one: problem.depth[one[0]])
figure, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
plotting.sparsity_by_layer(ax, *map(list, zip(*layers, strict=True)))
ax.legend(fontsize=8)
plt.show()
direct, effective = report.direct.sparsity, report.effective.sparsity
print(f"sparsity {direct:.2%}, effective {effective:.2%}")

# %% [markdown]
# ## What to take from it
#
# The lists above choose for this network and this budget of fine-tuning. Change `CNN`,
# the data and the sizes, and the cells choose for yours. A measure that is no better
# than its own mask shuffled in layers has told how many weights each layer needs; then
# the cheapest way to those shares will do.
