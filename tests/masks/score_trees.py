"""Trees of scores drawn at random, and selection by a sort in NumPy."""

import jax
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

import gradflow_jax as gf

# Each new combination of shapes compiles the selection anew, so shapes are few and
# values many.
SHAPES = (
    ((4, 3),),
    ((2, 3), (4,), ()),
    ((1,), (1, 1), (), (2, 2, 2, 3), (7,), (2, 1, 2)),
    ((0, 4), (3, 2)),
    ((30, 10), (1,)),
    ((3, 1, 2), (2, 3), (3, 1, 2), (2, 3)),
)
# These serve where floors, earlier masks or jit make other programs of the same shapes.
FEW_SHAPES = SHAPES[3:]
WITH_MATRICES = tuple(s for s in SHAPES if any(len(shape) > 1 for shape in s))
ORDINARY = (0.0, -0.0, 1.0, -1.0, 1.0000001, 3e38, -3e38, 2e-38, -2e-38)
DENORMAL = (0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.1e-38, 1.2e-38)

# What a test draws from a few values ties, and the warning of it is not its subject.
ties_are_meant = pytest.mark.filterwarnings(
    "ignore::gradflow_jax.masks.ties.EqualScoresWarning"
)
checked = settings(max_examples=60, deadline=None, derandomize=True, database=None)
fractions = st.sampled_from((0.0, 0.1, 1 / 3, 0.5, 0.95, 1.0)) | st.floats(0, 1)


def everything(path, leaf):
    return True


@st.composite
def score_trees(draw, shapes=SHAPES, special=ORDINARY):
    """Trees filled from a few values, so that ties are the rule."""
    numbers = st.floats(
        width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
    )
    values = draw(st.lists(st.sampled_from(special) | numbers, min_size=1, max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = draw(st.sampled_from(shapes))
    return {
        "abcdef"[i]: np.asarray(rng.choice(values, shape), np.float32)
        for i, shape in enumerate(chosen)
    }


@st.composite
def mask_trees(draw, tree):
    density = draw(st.sampled_from((0.0, 0.3, 0.7, 1.0)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {k: np.asarray(rng.random(x.shape) < density) for k, x in tree.items()}


def kept_of(size, sparsity):
    return size - round(sparsity * size)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def ranked(scores, among):
    """The indices in `among`, the highest score first, the lower index among equals."""
    indices = np.flatnonzero(among)
    return indices[np.lexsort((indices, -scores[indices]))]


def expected(tree, keep, minimum=None, alive=None):
    """Which of the flat scores stay, by sorting in numpy."""
    scores = flat(tree)
    alive = np.ones(scores.shape, bool) if alive is None else flat(alive)
    kept = np.zeros(scores.shape, bool)
    if minimum is not None:
        ends = np.cumsum([leaf.size for leaf in tree.values()])
        for number, leaf, end in zip(minimum, tree.values(), ends, strict=True):
            inside = np.zeros(scores.shape, bool)
            inside[end - leaf.size : end] = True
            kept[ranked(scores, inside & alive)[:number]] = True
    ranking = ranked(scores, alive & ~kept)
    kept[ranking[: keep - kept.sum()]] = True
    return kept


def same(masks, again):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(masks), jax.tree.leaves(again), strict=True)
    )


jitted_global = jax.jit(
    lambda scores, sparsity: gf.global_masks(
        scores, sparsity=sparsity, prunable=everything
    ),
    static_argnums=1,
)
