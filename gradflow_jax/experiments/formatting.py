"""Numbers, lists and tables as a person reads them."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLUMNS = 80
_GAP = 2


class Grid(NamedTuple):
    """A table, to be shown by `screen` or written by `markdown`.

    Attributes:
        title: one line.
        header: names of the columns.
        rows: of as many cells.
        notes: lines below it.
        words: how many columns, the first ones, are of words and not of numbers.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: int = 1


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


def screen(grid: Grid) -> list["Text | Table"]:
    """Returns title, table and notes for a terminal of `COLUMNS`.

    The table is cut into several where it is too wide; each begins with the first
    column, in which a name that is repeated from the row above is not shown again.
    """
    from rich.text import Text

    widths = column_widths([grid.header, *grid.rows])
    # A part is a list of columns that fit beside the first; `used` is the width of the
    # part that is being filled.
    parts: list[list[int]] = [[]]
    used = widths[0]
    for column in range(1, len(widths)):
        if parts[-1] and used + _GAP + widths[column] > COLUMNS:
            parts.append([])
            used = widths[0]
        parts[-1].append(column)
        used += _GAP + widths[column]
    above = [None, *(row[0] for row in grid.rows)]
    rows = [
        ("" if row[0] == name else row[0], *row[1:])
        for row, name in zip(grid.rows, above, strict=False)
    ]
    # A title or a caption of the table itself would be wrapped at the table's width.
    return [
        Text(grid.title, "italic"),
        *(
            fill_table(
                [grid.header[i] for i in (0, *part)],
                [[row[i] for i in (0, *part)] for row in rows],
                words=grid.words,
            )
            for part in parts
        ),
        *(Text(note, "dim italic") for note in grid.notes),
    ]


def markdown(grid: Grid) -> list[str]:
    """Returns the lines of the table in Markdown, its title above it."""
    numbers = len(grid.header) - grid.words
    rule = [*["---"] * grid.words, *["--:"] * numbers]
    lines = [grid.header, rule, *grid.rows]
    return [
        f"**{grid.title}**",
        "",
        *(f"| {' | '.join(line)} |" for line in lines),
        "",
        *(f"{note}  " for note in grid.notes[:-1]),
        *grid.notes[-1:],
        "",
    ]


def column_widths(lines: Iterable[Sequence[str]]) -> list[int]:
    """Returns how wide the columns of rows of cells are."""
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def fill_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: int,
    widths: Sequence[int] | None = None,
    show_header: bool = True,
) -> "Table":
    """Returns a rich table of one-line cells.

    Args:
        header: names of the columns.
        rows: of as many cells.
        words: how many columns, the first ones, are aligned to the left.
        widths: the least of each column; tables below each other agree in them.
        show_header: whether the names are shown.

    Example:
        >>> from rich.console import Console
        >>> table = fill_table(("layer", "kept"), [("conv1", "16")], words=1)
        >>> Console(width=80).print(table)
        layer  kept
        ───────────
        conv1    16
    """
    from rich.text import Text

    table = plain_table(show_edge=False, show_header=show_header)
    for column, name in enumerate(header):
        table.add_column(
            Text(name),
            justify="left" if column < words else "right",
            no_wrap=True,
            min_width=widths[column] if widths else None,
        )
    for row in rows:
        # A `Text` is shown as it is: of a string rich would read brackets as styles.
        table.add_row(*map(Text, row))
    return table


def plain_table(**options: Any) -> "Table":
    """Returns an empty rich table without a frame, so narrow that 80 columns do.

    Args:
        options: further ones of rich's `Table`.
    """
    # rich is imported here, since options of commands use this file and --help needs
    # no table.
    import rich.box
    from rich.table import Table

    common = {
        "title_justify": "left",
        "caption_justify": "left",
        "box": rich.box.SIMPLE_HEAD,
        # The divider of the box is a column of the gap.
        "padding": (0, _GAP - 1, 0, 0),
        "pad_edge": False,
    }
    return Table(**{**common, **options})
