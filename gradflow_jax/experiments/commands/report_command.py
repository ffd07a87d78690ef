"""The options of `gradflow-jax report`."""

from pathlib import Path

import click

from gradflow_jax.experiments.commands.options import out_options


@click.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUNS...",
    type=click.Path(exists=True, path_type=Path),
)
@out_options(
    "The folder for report.md, report.json and the figures.",
    "Replace a report that is in --out.",
    default="report",
)
def report(runs: tuple[Path, ...], out: Path, force: bool, quiet: bool) -> None:
    """Compare runs of reproduce: tables, figures, and the paper's orderings.

    RUNS are folders, which are searched for run.json at any depth, or such files.
    Runs that differ in measure, rounds and seed alone share a table, over seeds;
    incomplete ones are left out. What the paper says of the measures is tested on
    pairs of runs of one seed, and the report says where it held and where not.
    """
    from gradflow_jax.experiments.commands import report_job

    report_job.run(runs, out, force=force, quiet=quiet)
