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
# A program in one part: each of the 32 that it may be split into is begun and linked.
CHEAP += ["--xla_cpu_parallel_codegen_split_count=1"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Loops emitted through LLVM alone, without MLIR; later versions know no other way.
    CHEAP += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *CHEAP])

import jax
import numpy as np
import pytest

from gradflow_jax.experiments.data.dataset import load

TESTS = itertools.count(1)
USED = pytest.StashKey[list]()


@pytest.fixture(autouse=True, scope="session")
def compiled_once(tmp_path_factory):
    """Compiles what is the same program once, here and in the processes of tests.

    Functions that tests make anew, and caches that are cleared, give the same programs
    again and again. The folder is this worker's own and starts empty: JAX's files are
    not written at once, and another worker could read half a file.
    """
    folder = str(tmp_path_factory.mktemp("programs"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forgets compiled programs before they fill the memory.

    JAX keeps all that it compiled. Each program is some 800 kB and a few mappings, of
    which Linux lets a process have 65,530; it dies at the next one. What is forgotten
    and needed again is read from the files of `compiled_once`.
    """
    yield
    mappings = Path("/proc/self/maps")
    # Counting takes longer than many a test.
    if next(TESTS) % 20 == 0 and mappings.exists():
        if mappings.read_bytes().count(b"\n") > 5_000:
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
    """A worker tells what it used."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["used"] = used()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """The process that hands out tests notes it, but of a worker that crashed."""
    if error is None:
        node.config.stash.setdefault(USED, []).append(node.workeroutput["used"])


def pytest_terminal_summary(terminalreporter, config):
    """And prints it."""
    sizes, seconds = zip(*sorted(config.stash.get(USED, [used()])), strict=True)
    terminalreporter.line(
        f"processes grew to {', '.join(f'{size:.1f}' for size in sizes)} GB "
        f"and took {sum(seconds):.0f} CPU seconds"
    )


def used():
    """Returns the GB that this process had at its largest, and its CPU seconds.

    Those of the processes that it started and waited for are among the seconds.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    # In kB, but on macOS, which counts bytes.
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9, seconds


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
