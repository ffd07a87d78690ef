"""A valid call of every public function, from which hostile ones are made.

An entry names an argument by its parameter, `*inputs` gets one. What a function returns
is used as users do, by a function of that and of further arguments: a measure is called
with parameters, a transformation updates.
"""

import functools
import inspect
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from matplotlib.figure import Figure

import gradflow_jax as gf
from gradflow_jax import dynamics, observations, plotting
from tests.documented_names_test import PUBLIC
from tests.fuzz.hostile import values_near

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


PARAMS = {
    "in": {"kernel": drawn(2, 3), "bias": drawn(3)},
    "out": {"kernel": drawn(3, 2)},
}
SCORES = jax.tree.map(np.abs, PARAMS)
MASKS = jax.tree.map(lambda leaf: leaf > -0.1, PARAMS) | {
    "in": {"kernel": PARAMS["in"]["kernel"] > 0, "bias": np.ones(3, bool)}
}
X, Y = drawn(4, 2), drawn(4, 2)
KEEP = {"in/kernel[1]": np.array([True, False, True])}


def model(params, x):
    hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    return hidden @ params["out"]["kernel"]


def loss(params, x, y):
    return jnp.mean((model(params, x) - y) ** 2)


def loss_of_batch(params, batch):
    return loss(params, *batch)


class Made(NamedTuple):
    """A valid argument that is made when it is needed, anew or once."""

    make: Callable[[], Any]


class Trusted(NamedTuple):
    """A valid argument of which callers in the library alone take care."""

    argument: Any


class Entry(NamedTuple):
    """A valid call.

    Attributes:
        function: the public one.
        arguments: by parameter.
        use: of what it returns and of `more`.
        more: further arguments, by the names that `use` gives them.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    use: Callable[..., Any] | None
    more: dict[str, Any]

    def call(self, name=None, value=None):
        """Calls the function; the argument of that name is another."""
        positional, named = [], {}
        for parameter, argument in self.arguments.items():
            argument = _real(value if parameter == name else argument)
            kind = _kind(self.function, parameter)
            if kind in (inspect.Parameter.KEYWORD_ONLY, None):
                named[parameter] = argument
            else:
                positional.append(argument)
        result = self.function(*positional, **named)
        if self.use is None:
            return result
        more = {
            key: _real(value if key == name else argument)
            for key, argument in self.more.items()
        }
        return self.use(result, **more)

    def inputs(self, count, seed):
        """Returns hostile inputs: triples of an argument, a value's name, its maker.

        Args:
            count: how many, as far as there are so many.
            seed: chooses them.
        """
        chosen, rng = [], random.Random(seed)
        by_argument = {}
        for name, valid in (self.arguments | self.more).items():
            if isinstance(valid, Trusted):
                continue
            makers = [*values_near(_real(valid)).items()]
            by_argument[name] = [(name, text, make) for text, make in makers]
            rng.shuffle(by_argument[name])
        # One after the other, so that each argument has its share.
        while any(by_argument.values()) and len(chosen) < count:
            chosen += [rest.pop() for rest in by_argument.values() if rest]
        return chosen


def _real(argument):
    if isinstance(argument, Trusted):
        return argument.argument
    return argument.make() if isinstance(argument, Made) else argument


def _kind(function, name):
    """Returns the kind of a parameter; None of a keyword among `**options`."""
    parameter = inspect.signature(function).parameters.get(_parameter(name))
    return None if parameter is None else parameter.kind


def _parameter(name):
    """Returns whose argument it is: `args 2` is the second of `*args`."""
    return name.split()[0]


AXES = Made(lambda: Figure().subplots())
ENTRIES: dict[str, Entry] = {}


def add(name, use=None, more=None, /, **arguments):
    ENTRIES[name] = Entry(PUBLIC[name], arguments, use, more or {})


def add_transformation(name, more=None, /, **arguments):
    """Adds one of a loss: what it returns is called with parameters and data."""
    more = more or {"params": PARAMS, "x": X, "y": Y}
    add(name, lambda made, **given: made(*given.values()), more, **arguments)


@functools.cache
def units():
    return gf.find_units(model, PARAMS, X)


UNITS = Made(units)
DERIVATIVES = Made(functools.cache(lambda: gf.differentiate(loss)(PARAMS, X, Y)))
PRUNABLE = {"prunable": gf.default_prunable, "ignore": "in/bias"}

# Scores
for measure in ("loss_preservation", "taylor", "first_order_terms", "grasp"):
    add_transformation(f"scores.{measure}", loss_fn=loss, has_aux=False)
for measure in ("gradient_norm_increase", "gradient_norm_preservation"):
    add_transformation(f"scores.{measure}", loss_fn=loss, has_aux=False)
add_transformation(
    "scores.biased_loss_preservation", loss_fn=loss, origin=SCORES, has_aux=False
)
BATCH = {"params": PARAMS, "batch": (X, Y)}
add_transformation(
    "scores.fisher", BATCH, loss_fn=loss_of_batch, per_example=True, has_aux=False
)
NORMED = {
    "in": {"scale": drawn(3), "bias": drawn(3)},
    "out": {"scale": drawn(2), "bias": drawn(2)},
}
add_transformation(
    "scores.batch_norm_taylor",
    {"params": NORMED, "batch": X},
    loss_fn=lambda params, x: jnp.mean((x @ params["out"]["scale"]) ** 2),
    per_example=False,
    prunable=lambda path, leaf: True,
    names=("scale", "bias"),
    has_aux=False,
)
add_transformation(
    "scores.differentiate",
    loss_fn=loss,
    order=1,
    squares=None,
    origin=SCORES,
    has_aux=False,
)
add(
    "scores.over_batches",
    lambda batched, params, batches: gf.taylor(batched)(params, batches),
    {"params": PARAMS, "batches": [(X, Y)]},
    loss_fn=loss_of_batch,
    weight=lambda batch: 1.0,
    micro_batch=2,
    dtype=jnp.float32,
    progress=lambda done, total: None,
)
add(
    "scores.batch_norm_scale",
    params=NORMED,
    prunable=lambda path, leaf: True,
    names=("scale", "bias"),
)
add("scores.magnitude", params=PARAMS)
add(
    "scores.random",
    lambda made, params: made(params),
    {"params": PARAMS},
    key=jax.random.key(0),
)
ROLES = {
    "in": {"kernel": ("in", "out"), "bias": ("out",)},
    "out": {"kernel": ("in", "out")},
}
add("scores.score", d=DERIVATIVES, measure="grasp", axis={"in/bias": -1}, roles=ROLES)
add("scores.score_all", d=DERIVATIVES)
add("scores.spearman", a=SCORES, b=PARAMS, prunable=gf.default_prunable)
add("scores.kendall", a=SCORES, b=PARAMS, prunable=gf.default_prunable)
add(
    "scores.top_overlap", a=SCORES, b=PARAMS, sparsity=0.5, prunable=gf.default_prunable
)
add(
    "scores.agreement",
    scores={"a": SCORES, "b": PARAMS},
    how=gf.scores.spearman,
    prunable=gf.default_prunable,
)

# Masks
add("masks.combine", masks=MASKS, how="union")
add("masks.overlap", a=MASKS, b=MASKS, **PRUNABLE)
add("masks.prune", params=PARAMS, masks=MASKS)
for allocation in ("erdos_renyi", "erdos_renyi_kernel"):
    add(f"masks.{allocation}", params=PARAMS, sparsity=0.5, roles=None, **PRUNABLE)
add("masks.quotas", params=PARAMS, by_path={"in/*": 0.5}, sparsity=0.5, **PRUNABLE)
add("masks.pack_masks", masks=MASKS)
add("masks.unpack_masks", packed=Made(lambda: gf.pack_masks(MASKS)), like=PARAMS)
add(
    "masks.n_of_m_masks",
    scores=SCORES,
    n=1,
    m=2,
    axis=-1,
    floor=0.1,
    previous=None,
    roles=None,
    prunable=lambda path, leaf: path == "out/kernel",
    ignore=(),
)
add("masks.report", masks=MASKS, params=PARAMS, scores=SCORES, **PRUNABLE)
add("masks.sparsity", masks=MASKS, **PRUNABLE)
add("masks.invert_scores", scores=SCORES, **PRUNABLE)
add("masks.shuffle_labels", key=jax.random.key(0), labels=np.arange(4))
add(
    "masks.shuffle_masks", key=jax.random.key(0), masks=MASKS, scope="layer", **PRUNABLE
)
add("masks.shuffle_pixels", key=jax.random.key(0), images=X.reshape(2, 2, 2, 1))
add(
    "masks.global_masks",
    scores=SCORES,
    sparsity=0.5,
    floor=0.1,
    previous=None,
    **PRUNABLE,
)
add(
    "masks.group_masks",
    scores=SCORES,
    by_path={"in/*": 0.5},
    floor=0.1,
    previous=None,
    **PRUNABLE,
)
add(
    "masks.layerwise_masks",
    scores=SCORES,
    sparsity=0.8,
    allocation=None,
    floor=0.1,
    previous=MASKS,
    **PRUNABLE,
)

# Units
CUT = Made(functools.cache(lambda: gf.cut(PARAMS, units(), KEEP)))
add(
    "structured.find_units",
    **{"model": model, "args": PARAMS, "args 2": X, "leaks": "fold"},
)
add(
    "structured.register_rule",
    lambda undo: undo(),
    primitive="of_the_fuzz",
    coupling=model,
    values=None,
    rebind=None,
    signals=None,
)
ENTRIES["programs.register_rule"] = ENTRIES["structured.register_rule"]
add("structured.check_cut", outputs=PARAMS, expected=PARAMS, tolerance=1e-5, what="it")
add("structured.cut_error", variables=PARAMS, units=UNITS, keep=KEEP, inputs=X)
UNIT_SCORES = {"in/kernel[1]": np.array([3.0, 1.0, 2.0])}
add(
    "structured.choose_units",
    scores=UNIT_SCORES,
    units=UNITS,
    sparsity=0.5,
    budget="units",
    scope="global",
    floor=0.1,
    min_units=1,
    round_to=1,
    ignore=lambda family: False,
)
add(
    "structured.compose_keep",
    units=UNITS,
    first=KEEP,
    again=Made(lambda: gf.find_units(model, CUT.make(), X)),
    second={"in/kernel[1]": np.array([True, False])},
)
add("structured.kept_indices", units=UNITS, keep=KEEP)
add("structured.cut", tree=PARAMS, units=UNITS, keep=KEEP, like=CUT)
add(
    "structured.forward_time",
    lambda seconds, keep: seconds(keep),
    {"keep": KEEP},
    variables=PARAMS,
    units=UNITS,
    inputs=X,
    calls=1,
)
add(
    "structured.save_cut",
    path="cut.safetensors",
    variables=CUT,
    units=UNITS,
    keep=KEEP,
)


def saved():
    gf.save_cut("saved.safetensors", CUT.make(), units(), KEEP)
    return "saved.safetensors"


add("structured.load_cut", path=Made(saved), like=PARAMS)
add(
    "structured.score_units",
    d=DERIVATIVES,
    units=UNITS,
    measure="taylor",
    scope="producing",
    normalize=None,
    ignore=lambda family: False,
)
add(
    "structured.shrink",
    lambda small, params, x: small(params, x),
    {"params": CUT, "x": X},
    model=model,
    units=UNITS,
    keep=KEEP,
)
add("structured.sum_over_units", terms=PARAMS, units=UNITS, scope="producing")
add("structured.axis_roles", **{"model": model, "args": PARAMS, "args 2": X})


class Normalized(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=True)(x)


def normalized():
    net = Normalized()
    return {"model": net, "args": net.init(jax.random.key(0), X), "args 2": [X]}


add("structured.recalibrate", **normalized())

# Transforms
add(
    "transforms.apply_mask",
    lambda tx, params, updates: tx.update(updates, tx.init(params), params),
    {"params": PARAMS, "updates": SCORES},
    masks=MASKS,
    packed=False,
)
TX = optax.chain(optax.sgd(0.1), gf.apply_mask(MASKS))
add(
    "transforms.replace_masks",
    tx=TX,
    opt_state=TX.init(PARAMS),
    params=PARAMS,
    masks=MASKS,
    reset=True,
)
add("transforms.masks_of", opt_state=TX.init(PARAMS), params=PARAMS)

# Dynamics
RUN = Made(
    functools.cache(
        lambda: dynamics.gradient_descent(loss, 0.1)(PARAMS, [0, 1, 2], X, Y)
    )
)
EVOLUTION = Made(functools.cache(lambda: dynamics.follow(loss)(RUN.make(), X, Y)))
add_transformation(
    "dynamics.gradient_descent",
    {"params": PARAMS, "steps": [0, 1], "x": X, "y": Y},
    loss_fn=loss,
    learning_rate=0.1,
    target=None,
    has_aux=False,
)
add_transformation(
    "dynamics.gradient_flow",
    {"params": PARAMS, "times": [0.0, 0.1], "x": X, "y": Y},
    loss_fn=loss,
    target=None,
    solver=None,
    rtol=1e-3,
    atol=1e-3,
    max_steps=100,
    has_aux=False,
)
add_transformation(
    "dynamics.follow",
    {"trajectory": RUN, "x": X, "y": Y},
    loss_fn=loss,
    units=None,
    has_aux=False,
)
add_transformation(
    "dynamics.removal_effects",
    {"params": PARAMS, "masks": MASKS, "x": X, "y": Y},
    loss_fn=loss,
    scales=(1.0,),
    has_aux=False,
)
TRACKED = {
    "loss_fn": loss,
    "every": 1,
    "capacity": 4,
    "learning_rate": 0.1,
    "units": None,
    "has_aux": False,
}


def track_a_step(tx, updates, params, loss_args):
    return tx.update(updates, tx.init(params), params, loss_args=loss_args)


def record_a_call(recorder, params, x, y):
    recorder(params, x, y)
    return recorder.evolution()


add(
    "dynamics.track",
    track_a_step,
    {"updates": PARAMS, "params": PARAMS, "loss_args": (X, Y)},
    **TRACKED,
)
add("dynamics.Recorder", record_a_call, {"params": PARAMS, "x": X, "y": Y}, **TRACKED)


@functools.cache
def track_state():
    tx = dynamics.track(loss, capacity=4)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS, loss_args=(X, Y))
    return state


add("dynamics.tracked", opt_state=Made(track_state), params=PARAMS, units=None)
add("dynamics.measured_rates", evolution=EVOLUTION)
add("dynamics.predicted_rates", evolution=EVOLUTION)
add(
    "dynamics.convergence_order",
    scales=[0.2, 0.1],
    predicted=[4.0, 2.0],
    measured=[0.0, 1.0],
)

# Connectivity
PATHS = {"model": model, "params": PARAMS, "masks": MASKS, "inputs": X, **PRUNABLE}
add("connectivity.effective_masks", **PATHS)
add("connectivity.effective_report", **PATHS, units=UNITS)


# Observations
def init(key):
    return jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), PARAMS)


LABELS = np.arange(4) % 2
PROBLEM = observations.Problem(init, model, X, LABELS)


@functools.cache
def study():
    sizes = {"batch_size": 2, "steps": 2, "moments": 1, "lag": 1, "finetuning": 1}
    study = observations.Study(PROBLEM, **sizes, sparsity=0.3)
    # It is compiled once, which takes longer than an answer may.
    observations.observe(study, seeds=(0,))
    return study


STUDY = Made(study)
RUNS = Made(functools.cache(lambda: [study().run(0)]))
add("observations.observe", study=STUDY, seeds=(0,), progress=print)
for observation in (
    "larger_weights_converge_faster",
    "loss_preservation_removes_the_slowest",
):
    add(f"observations.{observation}", study=STUDY, runs=RUNS)
for observation in (
    "increasing_gradient_norm_raises_loss",
    "preserving_gradient_norm_is_better",
):
    add(f"observations.{observation}", study=STUDY, runs=RUNS, temperatures=(2.0, 1.0))
add("observations.magnitude_preserves_loss", study=STUDY, runs=RUNS, rounds=(1,))
add("observations.draw_batches", next, examples=4, batch_size=2, seed=0)
add("observations.finding", claim="it holds", values=[1.0, 2.0], unit="nats")
add(
    "observations.fit",
    step=lambda state, batch: (state, batch),
    state=0.0,
    batches=[1.0],
    after=lambda step: None,
)
add(
    "observations.problem_of",
    lambda problem: problem.init(jax.random.key(0)),
    model=(init, model),
    inputs=X,
    labels=LABELS,
)
add(
    "observations.Problem",
    lambda problem: problem.depth,
    init=init,
    apply=model,
    inputs=X,
    labels=LABELS,
)
add(
    "observations.Study",
    lambda study: study.run(0),
    problem=PROBLEM,
    optimizer=optax.sgd(0.1),
    batch_size=2,
    steps=2,
    moments=1,
    lag=1,
    finetuning=1,
    sparsity=0.5,
    floor=0.1,
)

# Plotting
ONES = np.ones((1, 2))
THIRD = observations.PreservingMagnitude(
    (1, 5), ONES, (1, 5), ONES, ONES, np.ones(1), ()
)
SECOND = observations.SlowWeights((1, 5), ONES, ())
add(
    "plotting.observations.convergence",
    ax=AXES,
    first=observations.LargerWeights(np.ones(1), np.ones(1), ONES, ONES, ()),
)
add("plotting.observations.rank_correlations", ax=AXES, second=SECOND, third=THIRD)
add("plotting.observations.change_by_rounds", ax=AXES, third=THIRD)
add(
    "plotting.observations.shares_by_depth",
    ax=AXES,
    fourth=observations.IncreasingGradientNorm(
        (1.0,), ("in", "out"), np.ones((1, 1)), np.ones((1, 1, 2)), ()
    ),
)
add(
    "plotting.observations.recovery",
    ax=AXES,
    fifth=observations.PreservingGradientNorm(
        ("grasp",), np.ones((1, 1, 3)), np.ones((1, 1, 3)), ()
    ),
)
CURVE = plotting.Curve([0.5, 0.9], [0.9, 0.8], [0.1, 0.1])
EPOCHS = {"magnitude": plotting.EpochCurve([1, 2], [0.5, 0.4], [0.1, 0.1])}
add(
    "plotting.accuracy_against_sparsity",
    ax=AXES,
    curves={"magnitude": CURVE},
    dense=0.9,
    removed="weights",
    spread="bars",
)
add("plotting.look", i=0)
add(
    "plotting.score_histograms",
    ax=AXES,
    edges=[0.1, 1.0, 10.0],
    counts={"in": [1, 2]},
    measure="score",
    unit=None,
    threshold=1.0,
    scale="log",
)
add(
    "plotting.pruned_by_layer",
    ax=AXES,
    layers=["in", "out"],
    shares={"magnitude": plotting.LayerShares([0.5, 0.5], [0.1, 0.1])},
    order=("magnitude",),
)
add(
    "plotting.sparsity_by_layer",
    ax=AXES,
    layers=["in", "out"],
    direct=[0.5, 0.5],
    effective=[0.6, 0.6],
)
add(
    "plotting.correlation_matrix",
    ax=AXES,
    names=["a", "b"],
    values=np.eye(2),
    quantity="ρ",
)
add(
    "plotting.mask_picture",
    ax=AXES,
    mask=MASKS["in"]["kernel"],
    effective=MASKS["in"]["kernel"],
)
add(
    "plotting.measured_and_predicted",
    ax=AXES,
    checks={"loss": plotting.PredictionCheck([0, 1], [1.0, 0.5], [1.0, 0.5])},
    quantity="nats",
    time="t",
    scale="linear",
)
add(
    "plotting.loss_against_gradient_norm",
    ax=AXES,
    networks={"a": plotting.Recovery(1.0, 1.0, 0.5, 0.5)},
    dense=(1.0, 1.0),
)
add(
    "plotting.correlations_over_epochs",
    ax=AXES,
    curves=EPOCHS,
    reference="grasp",
    rounds=(1,),
    order=("magnitude",),
)
add(
    "plotting.training_curves",
    ax=AXES,
    curves=EPOCHS,
    quantity="training loss",
    rounds=(1,),
    order=("magnitude",),
)

# Trees
add("trees.aligned_leaves", tree=PARAMS, like=PARAMS, what="scores", like_what="params")
add("trees.check_floating", tree=PARAMS, what="params", or_shapes=Trusted(False))
add("trees.check_masks", masks=MASKS, what="masks")
add("trees.check_trained", params=PARAMS)
add("trees.checked_fraction", value=0.5, what="sparsity")
add("trees.mask_leaves", masks=MASKS, like=PARAMS, what="masks", like_what="params")
add("trees.fetch", tree=PARAMS, what="scores")
add("trees.check_key", key=jax.random.key(0))
add("trees.check_number", value=0.5, what="rate", least=Trusted(0.0))
add("trees.checked_whole_number", value=2, what="n")
add("trees.real_array", values=[0.5, 1.0], what="times")
for function in ("describe", "is_numeric", "is_real_floating"):
    add(f"trees.{function}", leaf=PARAMS["in"]["kernel"])
for function in ("is_traced", "is_linen_module", "is_nnx_module", "is_nnx_state"):
    add(f"trees.{function}", value=PARAMS)
add("trees.named_leaves", tree=PARAMS)
add("trees.default_prunable", path="in/kernel", leaf=PARAMS["in"]["kernel"])
add(
    "trees.match_paths",
    patterns="in/*",
    paths=Trusted(["in/kernel"]),
    what="ignore",
    of="no leaf",
)
add("trees.prunable_flags", tree=PARAMS, **PRUNABLE)
add("models.normalized_kernels", params=PARAMS)

# Why each takes but what another function has checked.
NOT_CALLED = {
    "trees.check_finite": "takes leaves that check_floating has seen",
    "trees.label": "takes a path of named_leaves",
    "trees.map_named": "takes a function of the library's own, and trees of one kind",
    "trees.widen": "takes leaves that check_floating has seen",
    "structured.elementwise": "is handed to register_rule, which calls it",
}
