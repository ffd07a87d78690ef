"""Exact global masks: in reads of the scores, and beside other ways to them."""

import time

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import rivals
from measuring import Ratio, Took, growth, temporaries

import gradflow_jax as gf
from gradflow_jax.masks.selection import device_leaf, exact_threshold
from gradflow_jax.masks.selection.counting import Totals
from gradflow_jax.masks.selection.pieces import Scores

KINDS = (
    "half zeros",
    "all equal",
    "bfloat16",
    "signed",
    "log-normal, σ 10",
    "one leaf dominating",
)


def shapes(quick, copies=1):
    return networks.resnet50_shapes(16 if quick else 64) * copies


def smaller(shapes):
    return [tuple(-(-size // 8) for size in shape) for shape in shapes]


def scores(shapes, kind="products"):
    """Scores like |θ ⊙ ḡ|, each leaf at its own scale; or of a harder kind."""
    generator, leaves = np.random.default_rng(0), []
    for number, shape in enumerate(shapes):
        leaf = generator.standard_normal(shape, np.float32)
        if kind == "all equal":
            leaf = np.ones(shape, np.float32)
        elif kind.startswith("log-normal"):
            leaf = np.exp(10 * leaf)
        elif kind != "signed":
            leaf = np.abs(leaf * generator.standard_normal(shape, np.float32))
            leaf *= np.float32(np.exp(generator.standard_normal()))
        if kind == "half zeros":
            leaf *= generator.random(shape, np.float32) < 0.5
        if kind == "one leaf dominating" and number == len(shapes) // 2:
            leaf *= np.float32(1e6)
        leaves.append(jnp.asarray(leaf, jnp.bfloat16 if kind == "bfloat16" else None))
    return leaves


def size(leaves):
    return sum(leaf.size for leaf in leaves)


def kept(leaves, sparsity):
    return size(leaves) - round(sparsity * size(leaves))


def everything(path, leaf):
    return True


def ours(leaves, sparsity=0.9):
    return lambda: gf.global_masks(leaves, sparsity=sparsity, prunable=everything)


def lowered(leaves, sparsity=0.9):
    """The selection itself, without the public function around it."""
    columns = Scores(leaves, None, None)
    keep = Totals.of([kept(leaves, sparsity)])
    groups = (0,) * len(leaves)
    return exact_threshold._highest.lower(columns, keep, groups=groups, placement=None)


def assert_nearly_same(masks, others):
    """Other ways keep all of equal scores, or round the number in float32."""
    pairs = zip(masks, others, strict=True)
    apart = sum(int(np.sum(np.asarray(a) != np.asarray(b, bool))) for a, b in pairs)
    assert apart <= 1e-6 * size(masks) + 1, f"{apart} weights are kept by one alone"


# A way by the leaves, its target and rounds: the slow ones need few.
RIVALS = {
    "sort": (lambda leaves: rivals.by_sorting(leaves, kept(leaves, 0.9)), 60, 5),
    "jaxpruner": (lambda leaves: rivals.by_jaxpruner(leaves, 0.9), 80, 5),
    "torch.kthvalue": (lambda leaves: rivals.by_torch(leaves, kept(leaves, 0.9)), 4, 9),
    "np.partition": (
        lambda leaves: rivals.by_numpy(leaves, kept(leaves, 0.9)),
        None,
        9,
    ),
}
MILLIONS = {1: "25.6", 4: "102"}


def against(name, copies, paired, missing, quick):
    """One row: another way over ours."""
    make, target, rounds = RIVALS[name]
    leaves = scores(shapes(quick, copies))
    work = f"{name} over ours: {MILLIONS[copies]} M scores"
    way = make(leaves)
    if way is None:
        missing(work, f"{name.split('.')[0]} is not here")
        return
    assert_nearly_same(ours(leaves)(), way())
    paired(
        {"ours": ours(leaves), name: way},
        Ratio(work, name, "ours", at_least=target),
        rounds=rounds if copies == 1 else 2,
        # The comparison above was the first call.
        warmups=1 if copies == 1 else 0,
        resident=["ours", name] if copies == 1 else ["ours"],
    )


def reads(paired, leaves, work, masks, *, rounds=15, at_most=None, **more):
    """One row: masks over one read of the scores."""
    paired(
        {"ours": masks, "read": rivals.by_reading(leaves)},
        Ratio(f"{work} over one read", "ours", "read", at_most),
        rounds=rounds,
        **more,
    )


@pytest.mark.parametrize("copies", [1, 4], ids=["25M", "100M"])
def test_reads(paired, quick, copies):
    if quick and copies > 1:
        pytest.skip("too large to be quick")
    leaves = scores(shapes(quick, copies))
    reads(
        paired,
        leaves,
        f"global mask of {MILLIONS[copies]} M scores",
        ours(leaves),
        at_most=14,
        rounds=31 if copies == 1 else 7,
        memory={"ours": temporaries(lowered(leaves).compile(), size(leaves))},
        resident=["ours"],
    )


@pytest.mark.parametrize("name", RIVALS)
def test_rival_over_ours(paired, missing, quick, name):
    against(name, 1, paired, missing, quick)


@pytest.mark.parametrize("name", ["sort", "jaxpruner", "torch.kthvalue"])
def test_rival_over_ours_100M(paired, missing, quick, name):
    if quick:
        pytest.skip("too large to be quick")
    against(name, 4, paired, missing, quick)


@pytest.mark.parametrize("kind", KINDS)
def test_reads_of_kind(paired, quick, kind):
    leaves = scores(shapes(quick), kind)
    reads(paired, leaves, f"global mask of scores {kind}", ours(leaves))


@pytest.mark.parametrize("sparsity", [0.5, 0.99])
def test_reads_at_sparsity(paired, quick, sparsity):
    leaves = scores(shapes(quick))
    masks = ours(leaves, sparsity)
    reads(paired, leaves, f"global mask at sparsity {sparsity}", masks)


def test_reads_by_layer(paired, quick):
    leaves = scores(shapes(quick))

    def masks():
        return gf.layerwise_masks(leaves, sparsity=0.9, prunable=everything)

    reads(paired, leaves, "masks of each layer", masks)


def test_bytes_a_weight(counted, quick):
    leaves = scores(shapes(quick))
    held = temporaries(lowered(leaves).compile())["temporaries"] / size(leaves)
    work = "memory of a global mask beside scores and masks"
    counted(f"{work}, inside jit", held, "bytes a weight", at_most=1)
    ours(leaves)()
    # The masks are a byte a weight themselves.
    held = max(growth(ours(leaves)) / size(leaves) - 1, 0.0)
    counted(work, held, "bytes a weight", at_most=1)


# Trees of which the first mask is timed: what it takes beyond a later one is tracing
# and compiling.
FIRST = {
    "a ResNet-50's 161 leaves, 25.6 M": networks.resnet50_shapes(),
    "a small Llama's 210 kernels, 1.8 M": networks.llama_shapes(64, 256, 32),
    "SmolLM2's 210 kernels, 106 M": networks.llama_shapes(576, 1536, 192),
}


@pytest.mark.parametrize("name", FIRST)
def test_first_mask(paired, counted, quick, name):
    leaves = scores(smaller(FIRST[name]) if quick else FIRST[name])

    def first():
        jax.clear_caches()
        start = time.perf_counter()
        jax.block_until_ready(ours(leaves)())
        return Took(time.perf_counter() - start)

    paired(
        {"ours": first, "read": rivals.by_reading(leaves)},
        Ratio(f"first global mask over one read, compiled: {name}", "ours", "read"),
        rounds=5,
        warmups=0,
    )


def test_layouts(paired, quick):
    """Kernels as torch lays them out, whose last axes are tiny, and as Flax does."""
    size = 64 if quick else 512
    trees = {
        "ours": [(size, size, 3, 3)] * 4,
        "Flax's": [(3, 3, size, size)] * 4,
    }
    paired(
        {name: ours(scores(shapes)) for name, shapes in trees.items()},
        Ratio(
            "global mask of kernels [512, 512, 3, 3] over that of [3, 3, 512, 512]",
            "ours",
            "Flax's",
            1.3,
        ),
    )


IN_JIT = {
    "54 kernels": [s for s in networks.resnet50_shapes() if len(s) > 1],
    "a ResNet-50's 161 leaves": networks.resnet50_shapes(),
    "SmolLM2's 210 kernels": networks.llama_shapes(576, 1536, 192),
}


@pytest.mark.parametrize("name", IN_JIT)
def test_compiling(paired, quick, name):
    """The selection as a part of a caller's program, over a read of the scores."""
    leaves = scores(smaller(IN_JIT[name]) if quick else IN_JIT[name])

    def compiling(lower):
        def compiled():
            jax.clear_caches()
            start = time.perf_counter()
            lower().compile()
            return Took(time.perf_counter() - start)

        return compiled

    def read():
        return jax.jit(lambda leaves: [jnp.max(leaf) for leaf in leaves]).lower(leaves)

    paired(
        {"ours": compiling(lambda: lowered(leaves)), "read": compiling(read)},
        Ratio(f"compiling the selection of {name} over a read's", "ours", "read"),
        rounds=3,
        warmups=0,
    )


def test_recompilations(counted, quick):
    leaves = scores(shapes(quick))
    # None of them is small enough for the host, where nothing is compiled.
    large = [leaf for leaf in leaves if leaf.size > 2**16] or leaves

    def programs():
        made = device_leaf._count, device_leaf._count_chunks, device_leaf._mask
        return sum(program._cache_size() for program in made)

    ours(large, 0.9)()
    before = programs()
    for sparsity in (0.1, 0.5, 0.99):
        ours(large, sparsity)()
    ours([2 * leaf for leaf in large], 0.9)()
    found = programs() - before
    counted("recompilations at new scores and sparsities", found, "", at_most=0)
