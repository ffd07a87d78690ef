"""What `gradflow-jax report` does: reads runs, compares them, writes the report."""

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.commands.options import check_free, make_folder
from gradflow_jax.experiments.formatting import screen
from gradflow_jax.experiments.report import pages
from gradflow_jax.experiments.report.drawing import KINDS, figures
from gradflow_jax.experiments.report.runs import Block, blocks, collect, in_listed_order
from gradflow_jax.experiments.report.tables import grids, title
from gradflow_jax.experiments.reproduction.record_reading import read_json

PAGE_NAME, JSON_NAME = "report.md", "report.json"


def run(runs: Sequence[Path], out: Path, *, force: bool, quiet: bool) -> None:
    """Writes the report on runs to a folder and prints what it says.

    Raises:
        click.UsageError: if a run cannot be read, none is complete, or the folder holds
            a report that `force` does not replace.
    """
    try:
        collected = collect(runs)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not collected.runs:
        files = ", ".join(str(file) for file, _ in collected.incomplete)
        raise click.UsageError(f"none of the runs is complete: {files}.")
    compared = blocks(collected.runs)
    measures = in_listed_order({name for block in compared for name in block.measures})
    drawn, sections = {}, []
    for block, stem in zip(compared, _stems(compared), strict=True):
        by_kind = figures(block, measures)
        names = {kind: f"{stem}-{kind}.png" for kind in by_kind}
        drawn.update({names[kind]: figure for kind, figure in by_kind.items()})
        sections.append(pages.section_of(block, names))
    check_free((out / name for name in (PAGE_NAME, JSON_NAME, *drawn)), force)
    make_folder(out)
    unfinished = [record for _, record in collected.incomplete]
    texts = {
        JSON_NAME: pages.to_json(sections, unfinished),
        PAGE_NAME: pages.to_markdown(sections, unfinished),
    }
    for name in _figures_of_last_report(out / JSON_NAME) - set(drawn):
        (out / name).unlink(missing_ok=True)
    # The page is written last, so that every figure that it links exists. Arguments
    # with defaults bind what the loop is at now; a lambda would see what it is at then.
    for name, figure in drawn.items():
        write_whole(out / name, lambda path, fig=figure: fig.savefig(path, dpi=120))
    for name, text in texts.items():
        write_whole(
            out / name, lambda path, page=text: path.write_text(page, encoding="utf-8")
        )
    console = Console(quiet=quiet)

    def say(line: str, whole: bool = False) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=whole)

    for file, record in collected.incomplete:
        done = f"{len(record.epochs)} of {record.settings.epochs} epochs"
        say(f"Left out, incomplete: {file} ({done})", whole=True)
    for block in compared:
        for line in title(block):
            say(line)
        for grid in grids(block):
            say("")
            for table in screen(grid):
                console.print(table)
        say("")
    for line in pages.summary(sections):
        say(line)
    # The line is not wrapped, so that the path can be copied.
    say(f"Written to {out}:", whole=True)
    say(f"  {', '.join([*texts, *drawn])}")


def _figures_of_last_report(file: Path) -> set[str]:
    """Returns the names of the figures of the report that is replaced, if it is one.

    Whatever the file says, nothing is deleted outside of the report's folder, nor what
    has no name of a figure.
    """
    if not file.exists():
        return set()
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        blocks = read_json(file)["blocks"]
        names = [name for block in blocks for name in block["figures"].items()]
        return {
            name
            for kind, name in names
            if re.fullmatch(rf"[a-z0-9.-]+-{kind}\.png", name) and kind in KINDS
        }
    return set()


def _stems(compared: Sequence[Block]) -> list[str]:
    """Returns the beginning of each block's file names, no two the same."""
    stems: list[str] = []
    for block in compared:
        words = f"{block.settings.model}-{block.data.partition(' (')[0]}"
        if block.runs:
            words += f"-{100 * block.settings.prune:g}"
        stem = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")
        # A name of a data set may be longer than that of any file.
        stem = stem[:100]
        numbered = (f"{stem}-n{i}" for i in itertools.count(2))
        stems.append(
            stem
            if stem not in stems
            else next(name for name in numbered if name not in stems)
        )
    return stems
