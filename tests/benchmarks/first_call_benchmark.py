"""What the first call costs: tracing and compiling."""

import functools
import subprocess
import sys
import time
from pathlib import Path

import jax
import networks
from measuring import Ratio, Took

import gradflow_jax as gf


def first_call(make, network, problem):
    """Seconds of the first call of `make(loss)`, with nothing traced before."""
    jax.clear_caches()
    function = make(networks.image_loss(network))
    start = time.perf_counter()
    jax.block_until_ready(function(*problem.arguments))
    return Took(time.perf_counter() - start)


def test_first_call_over_that_of_the_gradient(paired, quick):
    network = networks.resnet(8 if quick else 56)
    problem = networks.image_problem(network, 16, train=False)
    paired(
        {
            "ours": lambda: first_call(gf.grasp, network, problem),
            "gradient": lambda: first_call(
                lambda loss: jax.jit(jax.grad(loss)), network, problem
            ),
        },
        Ratio("first call of grasp over ḡ's: ResNet-56", "ours", "gradient", 2.2),
        rounds=7,
        warmups=0,
    )


MEASURES = {
    "loss_preservation": gf.loss_preservation,
    "taylor": gf.taylor,
    "fisher": gf.fisher,
    "gradient_norm_preservation": gf.gradient_norm_preservation,
}


def test_first_calls_of_measures_over_that_of_the_gradient(paired, quick):
    network = networks.resnet(8 if quick else 20)
    problem = networks.image_problem(network, 16, train=False)
    makes = {"gradient": lambda loss: jax.jit(jax.grad(loss)), **MEASURES}
    paired(
        {
            name: functools.partial(first_call, make, network, problem)
            for name, make in makes.items()
        },
        *(
            Ratio(
                f"first call of {name} over ḡ's: ResNet-20", name, "gradient", at_most=4
            )
            for name in MEASURES
        ),
        rounds=3,
        warmups=0,
    )


# What is imported, in a new process each: jax with what the library builds on, the
# library, and the library with a name of it, which loads its room.
IMPORTS = {
    "jax, flax, optax": "import jax, flax.nnx, flax.linen, optax",
    "ours": "import gradflow_jax",
    "first score": "import gradflow_jax as gf; gf.grasp; gf.global_masks",
}


def test_imports(paired):
    def importing(code):
        def imported():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            return Took(time.perf_counter() - start)

        return imported

    theirs = "jax, flax, optax"
    paired(
        {name: importing(code) for name, code in IMPORTS.items()},
        Ratio(f"import gradflow_jax over importing {theirs}", "ours", theirs, 0.5),
        Ratio(
            f"import gradflow_jax and its first score over importing {theirs}",
            "first score",
            theirs,
            at_most=1.3,
        ),
        rounds=7,
    )


def test_cached_first_call_over_the_cold_one(paired, quick, tmp_path):
    depth, script = 8 if quick else 56, Path(__file__).with_name("first_call.py")
    folders = []

    def in_new_process(folder):
        command = [sys.executable, str(script), str(folder), str(depth)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        return Took(done.stdout)

    def cold():
        folders.append(tmp_path / str(len(folders)))
        return in_new_process(folders[-1])

    # In every other round cached comes first, with what the round before has left.
    in_new_process(tmp_path / "first")
    folders.append(tmp_path / "first")
    paired(
        {"ours": lambda: in_new_process(folders[-1]), "cold": cold},
        Ratio("first call of grasp, cached over cold: ResNet-56", "ours", "cold", 0.4),
        rounds=7,
        warmups=0,
    )
