"""How much each weight matters: importance measures as transformations of a loss.

    zeroth_order     measures of the weights alone
    first_order      measures of the gradient
    second_order     measures of Hg, the Hessian's product with the gradient
    rules            a measure as a pair (term, outer): score(U) = outer(Σ_U term)
    by_name          scores of weights and of neurons, from derivatives that are there
    derivatives      (θ, ḡ, Hḡ) of one batch, in one jit
    passes           the same of many batches, in one or two passes over them
    evaluation       hands them out, jitted, with the loss's own arguments
    vanishing        tells where derivatives vanished in the computing of them
    losses           what a loss is, how it is called, what is wrong with one
    arguments        takes its arguments: flags, arrays of any library, batches
    batching         the mean of a loss over many batches
    normalization    finds batch norms, whose scales are measures of units
    sharding         keeps gradients where the params lie
    rank_agreement   how alike two scores rank weights

Imports `trees` and `programs`; everything that prunes imports it. To add a measure, add
its rule to `rules.RULES` and its function, a transformation of a loss, to the file of
its order.

## Measures

θ are the parameters, ḡ and H gradient and Hessian of the mean loss, U the weights of a
filter or another unit. The cost is in gradients of the loss; a product Hḡ is `jax.jvp`
of `jax.grad`, about two gradients more, or four in reverse twice, where the loss has a
function of `jax.custom_vjp`. Higher scores are kept.

| measure | of a weight | of a filter U | cost | reference |
| --- | --- | --- | --- | --- |
| `magnitude(params)` | ∣θ∣ | ‖θ_U‖₂ | 0 | Han et al. 2015 |
| `loss_preservation(loss_fn)` | ∣θ ⊙ ḡ∣ | Σ_U ∣θ ḡ∣ | 1 | Lubana & Dick 2021; SNIP, Lee et al. 2019 |
| `biased_loss_preservation(loss_fn)` | ∣θ∣ · ∣θ ⊙ ḡ∣ | Σ_U | 1 | Lubana & Dick 2021 |
| … with `origin=params0` | ∣θ − θ₀∣ · ∣θ ⊙ ḡ∣ | Σ_U | 1 | Lubana & Dick 2021 |
| `grasp(loss_fn)` = `gradient_norm_increase(loss_fn)` | θ ⊙ Hḡ, signed | Σ_U, signed | 3 | Wang et al. 2020 |
| `gradient_norm_preservation(loss_fn)` | ∣θ ⊙ Hḡ∣ | ∣Σ_U θ Hḡ∣ | 3 | Lubana & Dick 2021 |
| `taylor(loss_fn)` | ∣θ ⊙ ḡ∣ | ∣Σ_U θ ḡ∣ | 1 | Molchanov et al. 2019 |
| `fisher(loss_fn)` | θ² ⊙ E[g²], over batches; (θ ⊙ ḡ)² of a single one | Σ_U | 1 | Theis et al. 2018 |
| … with `per_example=True` | θ² ⊙ E[g²], over examples | Σ_U | 1, more memory | Theis et al. 2018 |
| `batch_norm_scale(params)` | – | ∣γ∣ | 0 | Liu et al. 2017 |
| `batch_norm_taylor(loss_fn)` | – | γ² E[g_γ²] + β² E[g_β²] | 1 | Molchanov et al. 2019 |
| `random(key)` | uniform | – | 0 | the baseline |

`gf.score(evaluated, "taylor", roles=gf.structured.axis_roles(model, params, x))` gives
the column of filters and neurons, whatever the layout of a kernel. The signed terms are
`first_order_terms(loss_fn)`, θ ⊙ ḡ, and `grasp(loss_fn)`, θ ⊙ Hḡ. `gf.scores.RULES` has
a row for each measure that is such a formula: loop over it to try them all. Every measure
agrees with the numbers of the authors' release to 1e-6 of a layer's largest score.
`gf.scores.spearman`, `kendall` and `top_overlap` compare two scores,
`gf.scores.agreement` all of several: measures, batches, seeds, epochs.

The mode of batch norm and the temperature of the softmax belong to the loss you hand
over: score with running statistics, and for GraSP divide the logits by 200.

A bool, a text or an enumeration's member that a loss takes, `train=False`, is static: a
measure compiles for each of its values. Numbers and arrays are traced, tensors of other
libraries as NumPy reads them; bind by `functools.partial` what else a loss takes.

## Of NNX modules, and losses with an aux

An `nnx.Module` may stand in place of params, with the loss as NNX code has it. Its
`nnx.Param`s are scored, and what else it holds, such as batch statistics and the
streams of dropout, is read and left as it is. The scores are an `nnx.State` like
`nnx.state(model, nnx.Param)`; new weights, new statistics and another batch compile
nothing, another mode (`model.eval()`) does:

>>> import jax.numpy as jnp, optax
>>> import gradflow_jax as gf
>>> from flax import nnx
>>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
>>> loss_preservation = gf.loss_preservation(lambda model, x: jnp.mean(model(x) ** 2))
>>> scores = loss_preservation(model, jnp.ones((4, 3)))
>>> masks = gf.global_masks(scores, sparsity=0.5)
>>> nnx.update(model, gf.prune(nnx.state(model, nnx.Param), masks))
>>> tx = optax.chain(optax.adamw(1e-3), gf.apply_mask(masks))
>>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

Score in evaluation mode, `model.eval()`, with running statistics and without dropout. A
module that was split enters by `nnx.merge(graphdef, params, rest, copy=True)`. What
`nnx.split` and `nnx.state` return follows the model when it trains: `origin=` is copied
when its measure is made, so make it before training, or copy the state yourself,
`jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))`.

Where the loss returns `(loss, aux)`, say `has_aux=True`. A measure then returns
`(scores, aux)`, as `jax.grad` does, and over batches the list of each batch's aux, or
of each piece's where `micro_batch` cuts them. The
functions of `gf.dynamics` take such a loss too; they evaluate it at many times, and
discard the aux.

## Over a data set

The measures are defined by the gradient ḡ of the mean loss over *all* scoring data.
`over_batches` makes that loss of the loss of a batch; every measure takes it:

>>> import jax, jax.numpy as jnp, optax
>>> import gradflow_jax as gf
>>> draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
>>> params = {"hidden": {"kernel": draw(0, 8, 16), "bias": jnp.zeros(16)},
...           "out": {"kernel": draw(1, 16, 3)}}
>>> images, labels = draw(2, 32, 8), jnp.arange(32) % 3
>>> def loss_fn(params, images, labels):
...     hidden = jax.nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
...     logits = hidden @ params["out"]["kernel"]
...     return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
>>> batches = [(images[:24], labels[:24]), (images[24:], labels[24:])]
>>> mean_loss = gf.over_batches(lambda params, batch: loss_fn(params, *batch))
>>> scores = gf.grasp(mean_loss)(params, batches)  # two passes: ḡ, then Hḡ
>>> evaluated = gf.differentiate(mean_loss)(params, batches)
>>> sorted(gf.score_all(evaluated))[:3]  # or all of them at the cost of one
['biased_loss_preservation', 'gradient_norm_preservation', 'grasp']

Make a measure once and call it often: like `jax.jit`, it compiles for each new loss
function. Where a batch does not fit, `over_batches(loss_fn, micro_batch=...)` cuts it.

## On many devices

Scores, masks and the masked optimizer take sharded arrays as they are: what comes out
lies where the parameters lie. A selection sends counts between devices, never scores,
and keeps the very weights that one device would keep. On every host of a TPU pod or a
GPU cluster the same script runs, each with its own part of the data:

>>> from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
>>> jax.distributed.initialize()  # doctest: +SKIP
>>> mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
>>> def place(leaf):  # as FSDP does: kernels split by their last axis, the rest whole
...     splits = leaf.ndim > 1 and leaf.shape[-1] % mesh.size == 0
...     return NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), "all") if splits else P())
>>> params = jax.device_put(params, jax.tree.map(place, params))
>>> def share(own):  # this host's examples, as part of the whole batch
...     return jax.make_array_from_process_local_data(NamedSharding(mesh, P("all")), own)
>>> scores = gf.grasp(loss_fn)(params, share(images), share(labels))
>>> masks = gf.global_masks(scores, sparsity=0.8)
>>> tx = optax.chain(optax.adamw(1e-3), gf.apply_mask(masks))
>>> state = tx.init(params)

Tensor parallelism is another `PartitionSpec`. Over a data set every host brings its
share of each batch in this way. Inside your own `jax.jit` give `out_shardings`, as for
gradients; on explicit mesh axes the types say where things lie. Orbax restores params,
masks and optimizer states to a mesh of another shape. A sum of floats taken in another
order rounds otherwise, so scores of another number of devices agree to rounding; masks
of the same scores are the same to the bit.

## What it costs, and what float32 tells

- The first call compiles: a score for about twice as long as the gradient does, masks
  for about 0.1 s for each shape of large leaves and not at all for small ones, inside
  your own `jax.jit` for as long for each large leaf; new batches, masks and sparsities
  compile nothing. JAX's persistent cache,
  `jax.config.update("jax_compilation_cache_dir", ...)`, saves three fifths.
- A score takes as long as JAX takes for the gradient. On CPUs that is long for
  convolutions on small maps: of VGG-13, whose maps shrink to 2×2, torch is 6 to 7 times
  faster. `gradflow_jax.models` multiply matrices on maps of at most 4×4, which takes
  its gradient a quarter of the time; then torch is 1.3 to 1.9 times faster, and 1.2 to
  2.0 times on ResNet-56.
- `jax.checkpoint` saves memory only on layers that run under `jax.lax.scan`. Do not scan
  over batches yourself: XLA's CPU is tens of times slower at a convolution's gradient
  in a loop.
- In float32 scores of ReLU networks carry more than rounding: where the input of one
  ReLU, or two entries of a max pooling, are closer than rounding, it decides otherwise
  than in float64, and ḡ and Hḡ jump. In a VGG-13 on 16 images five decisions of 4.5
  million moved them by 1 %; with the same decisions they agree to 6e-6. To compare with
  another program compare in float64.
- Pool by Flax's `max_pool` or `jax.lax.reduce_window`, not by `x.reshape(...).max(...)`:
  the gradient of `max` goes where `x` equals the maximum, and jaxlib 0.12 on CPUs with
  AVX-512 computes `x` twice, rounded differently: a third of a gradient was lost.

All ratios, with spread, memory and versions, are in `tests/benchmarks`.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.scores.batching import over_batches as over_batches
from gradflow_jax.scores.by_name import score as score
from gradflow_jax.scores.by_name import score_all as score_all
from gradflow_jax.scores.derivatives import Derivatives as Derivatives
from gradflow_jax.scores.evaluation import differentiate as differentiate
from gradflow_jax.scores.first_order import batch_norm_taylor as batch_norm_taylor
from gradflow_jax.scores.first_order import (
    biased_loss_preservation as biased_loss_preservation,
)
from gradflow_jax.scores.first_order import first_order_terms as first_order_terms
from gradflow_jax.scores.first_order import fisher as fisher
from gradflow_jax.scores.first_order import loss_preservation as loss_preservation
from gradflow_jax.scores.first_order import taylor as taylor
from gradflow_jax.scores.rank_agreement import Agreement as Agreement
from gradflow_jax.scores.rank_agreement import agreement as agreement
from gradflow_jax.scores.rank_agreement import kendall as kendall
from gradflow_jax.scores.rank_agreement import spearman as spearman
from gradflow_jax.scores.rank_agreement import top_overlap as top_overlap
from gradflow_jax.scores.rules import RULES as RULES
from gradflow_jax.scores.rules import Rule as Rule
from gradflow_jax.scores.second_order import (
    gradient_norm_increase as gradient_norm_increase,
)
from gradflow_jax.scores.second_order import (
    gradient_norm_preservation as gradient_norm_preservation,
)
from gradflow_jax.scores.second_order import grasp as grasp
from gradflow_jax.scores.zeroth_order import batch_norm_scale as batch_norm_scale
from gradflow_jax.scores.zeroth_order import magnitude as magnitude
from gradflow_jax.scores.zeroth_order import random as random

__all__ = _exported_names(globals())
