"""The programs that an equation calls: jitted functions, loops, branches."""

from collections.abc import Sequence
from typing import Any

# A call is as if the equations of what it calls stood in its place.
CALLS = frozenset(
    """jit pjit closed_call core_call remat2 remat checkpoint custom_jvp_call
    custom_vjp_call custom_vjp_call_jaxpr""".split()
)
LOOPS_AND_BRANCHES = frozenset(("scan", "while", "cond"))


def open_program(program: Any) -> tuple[Any, Sequence[Any]]:
    """Returns a jaxpr, closed or open, and its constants."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def callee_of(params: dict[str, Any]) -> Any:
    """Returns the program that a call's parameters hold."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in params:
            return params[name]
    raise KeyError(f"no program among {list(params)}")


def scan_numbers(params: dict[str, Any]) -> tuple[int, int]:
    """Returns how many constants and carries a scan has."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))
