"""Pruning inside optax: transformations of gradients that keep pruned weights at zero.

    masking     keeps what masks remove at exactly 0.0, whatever the optimizer
    replacing   reads the masks in an optimizer's state, and puts new ones there

Imports `trees` and `masks`. A method of pruning while training is a further file here.

## The masked optimizer

Masking gradients is not enough: momentum, Adam's moments and weight decay all move a
pruned weight. `apply_mask` edits the final update instead and must be last in the chain.
The masks are in the optimizer's state: a checkpoint carries them, and new ones never
recompile. `masks_of` reads them. `replace_masks` puts others there and resets the
momentum of weights that changed sides. `apply_mask(masks, packed=True)` holds them as
bits, an eighth of the memory.

>>> import jax, jax.numpy as jnp, optax
>>> import gradflow_jax as gf
>>> params = {"kernel": jnp.array([[3.0, -1.0], [0.5, 2.0]])}
>>> masks = gf.global_masks(gf.magnitude(params), sparsity=0.5)
>>> tx = optax.chain(optax.adamw(0.1), gf.apply_mask(masks))
>>> params = gf.prune(params, masks)
>>> state = tx.init(params)
>>> updates, state = tx.update({"kernel": jnp.ones((2, 2))}, state, params)
>>> params = optax.apply_updates(params, updates)
>>> (params["kernel"] == 0.0).tolist()
[[False, True], [True, False]]

Where the network has batch norms, measure their running statistics anew before it is
evaluated or fine-tuned: they lag behind the masks (`gf.recalibrate`).

In a Flax `TrainState` or an `nnx.Optimizer` the chain is the `tx`. A masked step of adamw
takes 1.06 times as long as the step without, one of sgd 1.12 times.

## Methods are compositions

A published method is a score, an allocation over layers, a pattern and a time to apply
them. With `loss_fn`, `params`, `batch` and a `key`:

| method | score | allocation | when | masks |
| --- | --- | --- | --- | --- |
| SNIP | loss preservation | global | at initialization | `gf.global_masks(gf.loss_preservation(loss_fn)(params, batch), sparsity=0.9)` |
| GraSP | θ ⊙ Hḡ | global | at initialization | `gf.global_masks(gf.grasp(loss_fn)(params, batch), sparsity=0.9)` |
| Lubana & Dick's gradient-norm preservation | ∣θ ⊙ Hḡ∣ | global, 5 % of each layer safe | in training | `gf.global_masks(gf.gradient_norm_preservation(loss_fn)(params, batch), sparsity=0.9, floor=0.05)` |
| Magnitude pruning | ∣θ∣ | global | after training | `gf.global_masks(gf.magnitude(params), sparsity=0.9)` |
| the same, uniform | ∣θ∣ | each layer alike | after training | `gf.layerwise_masks(gf.magnitude(params), sparsity=0.9)` |
| Fisher pruning | θ² ⊙ E[g²], over examples | global | after training | `gf.global_masks(gf.fisher(loss_fn, per_example=True)(params, batch), sparsity=0.9)` |
| SET's and RigL's start | random | Erdős–Rényi (kernel) | at initialization | `gf.layerwise_masks(gf.random(key)(params), allocation=gf.erdos_renyi_kernel(params, sparsity=0.9))` |
| 2:4 sparsity | ∣θ∣ | 2 of every 4 | after training | `gf.n_of_m_masks(gf.magnitude(params), n=2, m=4)` |
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.transforms.masking import MaskState as MaskState
from gradflow_jax.transforms.masking import apply_mask as apply_mask
from gradflow_jax.transforms.replacing import masks_of as masks_of
from gradflow_jax.transforms.replacing import replace_masks as replace_masks

__all__ = _exported_names(globals())
