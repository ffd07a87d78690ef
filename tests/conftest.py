import gc
import itertools
import os
import resource
import sys
from importlib.metadata import version
from pathlib import Path

# Compiling is what the tests cost, and nothing in them is fast enough to be optimized.
# These stand before JAX is imported, and the processes that tests start inherit them.
CHEAP = ["--xla_backend_optimization_level=0"]
CHEAP += ["--xla_llvm_disable_expensive_passes=true"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Loops emitted through LLVM alone, without MLIR; later versions know no other way.
    CHEAP += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *CHEAP])

import jax
import numpy as np
import pytest

from gradflow_jax.experiments.data import load

TESTS = itertools.count(1)
PEAKS = pytest.StashKey[list]()


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forgets compiled programs before they fill the memory.

    JAX keeps all that it compiled. Each program is some 800 kB and three mappings, of
    which Linux lets a process have 65,530; it dies at the next one.
    """
    yield
    mappings = Path("/proc/self/maps")
    # Counting takes longer than many a test.
    if next(TESTS) % 20 == 0 and mappings.exists():
        if mappings.read_bytes().count(b"\n") > 9_000:
            jax.clear_caches()


def pytest_collection_finish():
    """Spares the garbage collector what lives as long as the tests.

    It went through all modules and all traced programs again and again: a tenth of the
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionfinish(session):
    """A worker tells how far it grew."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak_memory()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """The process that hands out tests notes it, but of a worker that crashed."""
    if error is None:
        peak = node.workeroutput["peak"]
        node.config.stash.setdefault(PEAKS, []).append(peak)


def pytest_terminal_summary(terminalreporter, config):
    """And prints it."""
    peaks = config.stash.get(PEAKS, [peak_memory()])
    sizes = ", ".join(f"{peak:.1f}" for peak in sorted(peaks))
    terminalreporter.line(f"processes grew to {sizes} GB")


def peak_memory():
    """Returns the largest resident size that this process had, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In kB, but on macOS, which counts bytes.
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


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
