"""Sharded arrays and several processes, on the CPU, in processes of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.models
HERE = Path(__file__).parent


def environment(devices):
    """Returns the variables of a process with so many virtual devices."""
    flags = [os.environ.get("XLA_FLAGS", "")]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    if jax.__version_info__ >= (0, 10):
        # On few cores the devices wait long for each other; older jaxlibs know no flag.
        flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=600")
        flags.append("--xla_cpu_collective_call_warn_stuck_timeout_seconds=300")
    # More threads than cores: a device that waits holds one.
    more = {"XLA_FLAGS": " ".join(flags), "NPROC": "32", "JAX_PLATFORMS": "cpu"}
    # One would read what another has half written to the files of compiled programs.
    own = {name: text for name, text in os.environ.items() if "COMPIL" not in name}
    return own | more


def eight_devices():
    """Runs the tests of eight devices; returns the finished process."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    # Orbax leaves what waits on its closed event loops to the garbage collector.
    command += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    return subprocess.run(
        [*command, str(HERE / "on_eight_devices.py")],
        env=environment(8),
        cwd=HERE.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_eight_devices():
    done = eight_devices()
    print(done.stdout)
    assert done.returncode == 0, "see the output of the tests of eight devices above"
    assert " passed" in done.stdout and "skipped" not in done.stdout


DEVICES = 4


def run_processes(folder, count):
    """Runs processes that work together; returns what each of them found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "on_processes.py"]
            + [str(value) for value in (folder, number, count, port)],
            env=environment(DEVICES // count if count > 1 else 1),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for number, process in enumerate(processes):
        assert process.returncode == 0, f"process {number}:\n{outputs[number]}"
    files = [folder / f"{count}-{number}.npz" for number in range(count)]
    return [dict(np.load(file)) for file in files]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Returns what one process finds on one device."""
    return run_processes(tmp_path_factory.mktemp("alone"), 1)[0]


@pytest.mark.parametrize("count", [2, 4])
def test_processes_find_what_one_device_finds(tmp_path, alone, count):
    """Scores and masks, to the bit, with the data split by process."""
    every = run_processes(tmp_path, count)
    # Each process looks at a part: two measures, and the lines of the page of scores.
    assert {name.split("/")[0] for name in every[0]} == (
        {"first", "second", "page", "error", "elsewhere"}
        | ({"trained", "cut", "looked", "followed"} if count == 2 else set())
    )
    for found in every:
        assert found.keys() == every[0].keys()
        elsewhere = str(found["elsewhere/"])
        assert "scores leaf 'kernel' lies on devices of other processes" in elsewhere
        for name in found.keys() - {"elsewhere/"}:
            if name.startswith("followed/"):
                # Sums of many products, whose rounding differs with their order.
                scale = np.abs(alone[name]).max(initial=0.0)
                np.testing.assert_allclose(
                    found[name], alone[name], 1e-6, 1e-9 * scale, err_msg=name
                )
            else:
                np.testing.assert_array_equal(found[name], alone[name], name)
    kept = sum(
        array.sum() for name, array in alone.items() if "repeated/masks/" in name
    )
    # Of 192 weights in kernels 30 % stay, and the bias, for each of two measures.
    assert kept == 2 * (192 - round(0.7 * 192) + 4)
    assert "leaf 'bad' has 1 of 128 values that are not finite" in str(alone["error/"])


if __name__ == "__main__":
    finished = eight_devices()
    print(finished.stdout)
    sys.exit(finished.returncode)
