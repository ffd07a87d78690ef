import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from gradflow_jax.experiments.data import load

TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forgets compiled programs before Linux refuses to map more of them.

    Each is three mappings, of which a process may have 65,530 by default; JAX keeps
    all that it compiled, and dies at the next one.
    """
    yield
    mappings = Path("/proc/self/maps")
    # Counting takes longer than many a test.
    if next(TESTS) % 20 == 0 and mappings.exists():
        if mappings.read_bytes().count(b"\n") > 25_000:
            jax.clear_caches()


@pytest.fixture
def float64():
    """Runs one test in float64."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def strict_ranks():
    """Arrays of different rank do not broadcast, on purpose or by accident."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", "allow")


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory):
    """The first classes of the embedded images, few and at a quarter of the size."""
    subset = load("subset")
    arrays = {}
    for split, count in (("train", 40), ("test", 20)):
        x, y = getattr(subset, f"x_{split}"), getattr(subset, f"y_{split}")
        chosen = np.concatenate([np.flatnonzero(y == c)[:count] for c in range(3)])
        arrays[f"x_{split}"] = x[chosen][:, ::4, ::4]
        arrays[f"y_{split}"] = y[chosen]
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **arrays)
    return path
