"""Reads what options of the commands stand for, and checks --out."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def check_free(files: Iterable[Path], force: bool) -> None:
    """Checks that no file would be replaced, unless that is asked for.

    Raises:
        click.UsageError: naming the first that is there.
    """
    existing = next((file for file in files if file.exists()), None)
    if existing is not None and not force:
        raise click.UsageError(
            f"{existing} exists already; choose another --out, or --force to replace."
        )


def make_folder(out: Path) -> None:
    """Makes the folder of --out.

    Raises:
        click.UsageError: if it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{out} cannot be made: {error.strerror}.") from error


def out_options(
    help: str, force_help: str, *, default: str | None = None
) -> Callable[[Command], Command]:
    """Returns what adds --out, --force and --quiet to a command.

    Args:
        help: of --out: what the folder is for.
        force_help: of --force: what it replaces.
        default: of --out.
    """
    out = click.option(
        "--out",
        default=default,
        show_default=default is not None,
        type=click.Path(file_okay=False, path_type=Path),
        help=help,
    )
    force = click.option("--force", is_flag=True, help=force_help)
    quiet = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
    return lambda command: out(force(quiet(command)))


class Fraction(click.FloatRange):
    """A sparsity: a fraction in [0, 1), or a percentage with its sign."""

    name = "fraction"

    def __init__(self) -> None:
        """Takes from 0 to below 1."""
        super().__init__(0.0, 1.0, max_open=True)

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Returns the fraction that 0.9 and 90% stand for."""
        text = str(value).strip()
        scale = 1.0
        if text.endswith("%"):
            text, scale = text[:-1], 100.0
        try:
            fraction = float(text) / scale
        except ValueError:
            self.fail(f"{value!r} is not a fraction such as 0.9 or 90%.", param, ctx)
        if not 0.0 <= fraction < 1.0:
            hint = f"; did you mean {text}%?" if 1 < fraction < 100 else "."
            self.fail(f"{value} is outside [0, 1){hint}", param, ctx)
        return round(fraction, 12)


class Percent(click.ParamType):
    """A percentage in [0, 100), with or without its sign; 0.75 is no 75 %."""

    name = "percent"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Returns the fraction that 75 and 75% stand for."""
        text = str(value).strip().removesuffix("%")
        try:
            percent = float(text)
        except ValueError:
            self.fail(f"{value!r} is not a percentage such as 75.", param, ctx)
        if not 0 <= percent < 100:
            self.fail(f"{value} is outside [0, 100) percent.", param, ctx)
        if 0 < percent < 1 and "%" not in str(value):
            hint = f"{100 * percent:g}"
            self.fail(
                f"{value} is a percentage below 1: did you mean {hint}? Say {text}% if "
                "not.",
                param,
                ctx,
            )
        return round(percent / 100, 12)


class Percents(click.ParamType):
    """Percentages that rise from above 0, separated by commas."""

    name = "P,P,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Returns the fractions that 40,60,75 stand for."""
        if not isinstance(value, str):
            return value
        convert = Percent().convert
        fractions = tuple(convert(part, param, ctx) for part in value.split(","))
        steps = zip((0.0, *fractions), fractions, strict=False)
        if not all(before < after for before, after in steps):
            self.fail(f"{value} do not rise from above 0.", param, ctx)
        return fractions


class Schedule(click.ParamType):
    """Stages of training, EPOCHS@RATE, separated by commas."""

    name = "epochs@rate,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Returns (epochs, learning rate) of each stage."""
        if not isinstance(value, str):
            return value
        stages = []
        for part in value.split(","):
            epochs, _, rate = part.partition("@")
            try:
                stage = int(epochs), float(rate)
            except ValueError:
                stage = 0, 0.0
            if stage[0] < 1 or not 0 < stage[1] < float("inf"):
                self.fail(
                    f"{part.strip()!r} is no stage such as 80@0.1: epochs from 1 on, "
                    "then @, then a positive learning rate.",
                    param,
                    ctx,
                )
            stages.append(stage)
        return tuple(stages)

    @staticmethod
    def to_text(stages: Sequence[tuple[int, float]]) -> str:
        """Returns stages as `convert` reads them."""
        return ",".join(f"{epochs}@{rate:g}" for epochs, rate in stages)
