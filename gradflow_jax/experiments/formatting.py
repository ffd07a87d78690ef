"""Numbers, lists and tables as a person reads them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def compact_count(number: float) -> str:
    """Returns a count in three digits: 355 k, 1.2 M."""
    for unit in ("", " k", " M", " G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


def join_words(values: Iterable[Any]) -> str:
    """Returns values in one line, with commas between them."""
    return ", ".join(map(str, values))


def rounds_in_words(rounds: int) -> str:
    """Returns "1 round" or "5 rounds"."""
    return f"{rounds} round{'' if rounds == 1 else 's'}"


def plain_table(*, gap: int = 2, **options: Any) -> "Table":
    """Returns an empty rich table without a frame, so narrow that 80 columns do.

    Args:
        gap: spaces between two columns, one of which is the divider of the box.
        options: further ones of rich's `Table`.

    Example:
        >>> from rich.console import Console
        >>> table = plain_table(show_edge=False)
        >>> for name in ("layer", "kept"):
        ...     table.add_column(name, justify="right")
        >>> table.add_row("conv1", "16")
        >>> Console(width=80).print(table)
        layer  kept
        ───────────
        conv1    16
    """
    # Inside, since options of commands use this file and --help needs no table.
    import rich.box
    from rich.table import Table

    common = {
        "title_justify": "left",
        "caption_justify": "left",
        "box": rich.box.SIMPLE_HEAD,
        "padding": (0, gap - 1, 0, 0),
        "pad_edge": False,
    }
    return Table(**{**common, **options})
