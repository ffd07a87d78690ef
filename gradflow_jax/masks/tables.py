"""Writes tables of layers, as aligned text and as HTML."""

import html
from collections.abc import Collection, Sequence

Row = Sequence[str]


def text_table(
    header: Row,
    rows: Sequence[Row],
    totals: Sequence[Row] = (),
    *,
    words: Collection[int] = (0,),
) -> str:
    """Returns a table of aligned columns, with rules only where it has totals.

    Args:
        header: the names of the columns.
        rows: of as many cells.
        totals: rows below the others.
        words: the positions of the columns of words, which are aligned to the left.
    """
    columns = zip(header, *rows, *totals, strict=True)
    widths = [max(map(len, column)) for column in columns]

    def line(row: Row) -> str:
        cells = [
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = ["-" * (sum(widths) + 2 * (len(widths) - 1))] if totals else []
    lines = [line(header), *rule, *map(line, rows), *rule, *map(line, totals)]
    return "\n".join(lines)


def html_table(
    header: Row,
    rows: Sequence[Row],
    totals: Sequence[Row],
    *,
    notes: Sequence[str] = (),
) -> str:
    """Returns the same table as HTML, with lines below it."""

    def line(row: Row, tag: str) -> str:
        cells = "".join(
            f'<{tag} style="text-align:{"right" if i else "left"}">'
            f"{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )
        return f"<tr>{cells}</tr>"

    body = "".join(line(row, "td") for row in rows)
    foot = "".join(line(row, "th") for row in totals)
    return (
        f"<table><thead>{line(header, 'th')}</thead>"
        f"<tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"
        + "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    )


def fraction_removed(kept: int, size: int) -> float:
    """Returns the fraction removed, in [0, 1]; 0 of nothing."""
    return 1.0 - kept / size if size else 0.0


def percent_removed(kept: int, size: int) -> str:
    """Returns the fraction removed; 100 % and 0 % only of all and of nothing."""
    percent = 100 * fraction_removed(kept, size)
    if 0 < kept < size:
        percent = min(max(percent, 0.01), 99.99)
    return f"{percent:.2f}%"


def shape_cell(shape: Sequence[int]) -> str:
    """Returns a shape as it stands in a table, "3×3×16×32"."""
    return "×".join(map(str, shape)) or "scalar"
