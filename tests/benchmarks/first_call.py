"""One first call of grasp, in a process of its own: prints its seconds.

`python first_call.py <folder of the compilation cache> <depth of the ResNet>`
"""

import sys
import time

import jax
import networks

import gradflow_jax as gf


def main(folder: str, depth: int) -> None:
    """Traces, compiles or finds compiled, and runs."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    problem = networks.image_problem(networks.resnet(depth), 16, train=False)
    jax.block_until_ready(problem)
    grasp = gf.grasp  # imported now
    start = time.perf_counter()
    jax.block_until_ready(grasp(problem.loss)(*problem.arguments))
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
