"""What scores and selection send between devices, by the number of virtual devices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEVICES = (1, 2, 4, 8)
LIMIT = 16 * 2**10
PRODUCTS = (
    "4 for ḡ; Hḡ of a kernel is a sum of two products, of which XLA's partitioner for "
    "the CPU reduces each by itself"
)


@pytest.fixture(scope="module")
def sent():
    """Returns `(devices, width) -> what is sent`, each compiled once."""
    found = {}

    def compiled(devices, width):
        if devices not in found:
            script = Path(__file__).with_name("communication.py")
            command = [sys.executable, str(script), str(devices), str(width)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, check=True, text=True
            )
            found[devices] = json.loads(done.stdout)
        return found[devices]

    return compiled


@pytest.mark.parametrize("devices", DEVICES)
def test_selection(counted, quick, sent, devices):
    found = sent(devices, 16 if quick else 64)["selection"]
    large = [one for one in found["all"] if one[0] != "all-reduce" and one[1] > LIMIT]
    assert not large, f"a leaf is sent: {large}"
    passes = [sum(size for _, size in one) for one in found["passes"]]
    once = sum(size for _, size in found["all"]) - sum(passes)
    counted(
        f"a counting pass of the selection, FSDP on {devices} devices",
        max(passes, default=0),
        "bytes sent",
        at_most=LIMIT,
        note=f"{once:,} bytes once beside the passes",
    )


@pytest.mark.parametrize("devices", DEVICES)
def test_scores(counted, quick, sent, devices):
    for measure, size in sent(devices, 16 if quick else 64)["scores"].items():
        work = f"{measure}, data on {devices} devices"
        note = PRODUCTS if measure == "grasp" and devices > 1 else ""
        counted(work, size, "bytes sent a weight", note=note)
