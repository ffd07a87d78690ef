"""What compiled programs send between devices: read from their HLO, nothing is run.

`python communication.py <devices> <width of the ResNet-50>` prints it as JSON, for so
many virtual devices of the CPU, which must be chosen before JAX starts.
"""

import json
import os
import re
import sys
from typing import Any, NamedTuple

_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
_COLLECTIVE = re.compile(rf"= (.+?) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+(\d+))\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)"
)


class Sent(NamedTuple):
    """One collective operation of a program.

    Attributes:
        kind: `all-reduce` and the like.
        bytes: the size of its results on one device.
    """

    kind: str
    bytes: int


class Program:
    """The computations of a program in HLO's text, and what they send."""

    def __init__(self, text: str):
        self._lines: dict[str, list[str]] = {}
        name = ""
        for line in text.splitlines():
            start = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if start:
                name = start[1]
            self._lines.setdefault(name, []).append(line)

    def everything(self) -> list[Sent]:
        """Returns all that is sent, what loops send once."""
        return [sent for name in self._lines for sent in self._own(name)]

    def of_each_pass(self) -> list[list[Sent]]:
        """Returns, for each loop, what one pass of it sends."""
        bodies = re.findall(
            r" while\(.*body=%?([\w.\-]+)",
            "\n".join(line for lines in self._lines.values() for line in lines),
        )
        return [
            [sent for name in self._reached(body) for sent in self._own(name)]
            for body in bodies
        ]

    def _own(self, name: str) -> list[Sent]:
        found = [_COLLECTIVE.search(line) for line in self._lines[name]]
        return [Sent(match[2], _bytes(match[1])) for match in found if match]

    def _reached(self, name: str) -> set[str]:
        reached, waiting = set(), [name]
        while waiting:
            name = waiting.pop()
            if name not in reached and name in self._lines:
                reached.add(name)
                waiting += _CALLED.findall("\n".join(self._lines[name]))
        return reached


def _bytes(shapes: str) -> int:
    total = 0
    for kind, bits, sizes in _ARRAY.findall(shapes):
        number = 1
        for size in filter(None, sizes.split(",")):
            number *= int(size)
        each = {"pred": 1, "bf16": 2}.get(kind) or int(bits) // 8
        total += number * each
    return total


def selection(devices: int, width: int) -> dict[str, Any]:
    """Returns what the global selection sends, of scores sharded as FSDP does."""
    import jax
    import jax.numpy as jnp
    import networks
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from gradflow_jax.masks.selection.counting import Totals
    from gradflow_jax.masks.selection.exact_threshold import _highest
    from gradflow_jax.masks.selection.pieces import Scores
    from gradflow_jax.masks.selection.placement import known_placement

    mesh = jax.make_mesh((devices,), ("fsdp",), axis_types=(AxisType.Auto,))

    def placed(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
        longest = max(axes, key=lambda axis: shape[axis], default=None)
        names = ["fsdp" if axis == longest else None for axis in range(len(shape))]
        sharding = NamedSharding(mesh, PartitionSpec(*names))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    leaves = [placed(shape) for shape in networks.resnet50_shapes(width)]
    lowered = _highest.lower(
        Scores(leaves, None, None),
        Totals.of([1000]),
        groups=(0,) * len(leaves),
        placement=known_placement(leaves),
    )
    program = Program(lowered.compile().as_text())
    return {"all": program.everything(), "passes": program.of_each_pass()}


def scores(devices: int) -> dict[str, float]:
    """Returns what measures send a weight, of data split over the devices."""
    import jax
    import networks
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import gradflow_jax as gf

    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    problem = networks.text_problem(layers=1, size=16)
    params = jax.device_put(problem.params, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(problem.batch, NamedSharding(mesh, PartitionSpec("data")))
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    found = {}
    for measure in (gf.loss_preservation, gf.grasp):
        compiled = measure(problem.loss).lower(params, batch).compile()
        sent = Program(compiled.as_text()).everything()
        found[measure.__name__] = sum(one.bytes for one in sent) / weights
    return found


def main(devices: int, width: int) -> None:
    """Compiles for so many devices and prints what is sent."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    own = f"--xla_force_host_platform_device_count={devices}"
    os.environ["XLA_FLAGS"] = f"{flags} {own}".strip()
    print(
        json.dumps({"selection": selection(devices, width), "scores": scores(devices)})
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
