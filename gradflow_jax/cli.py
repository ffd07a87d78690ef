"""Runs the gradflow-jax command."""

import sys
from importlib import import_module
from typing import NoReturn

import gradflow_jax

# The options of each stand in `commands/NAME_command`. It imports what it runs, and
# with it JAX, inside of the function that runs it, so that help waits for neither.
COMMANDS = ("evaluate", "observe", "prune", "report", "reproduce")


def main() -> None:
    """Runs the command; what the user did wrong is one line and exit code 2."""
    try:
        import click

        # Every command prints by rich: if it is absent, that is said before any option
        # is read, and not after minutes of work.
        import_module("rich")
        from gradflow_jax.experiments.commands.lazy_group import LazyGroup
    except ModuleNotFoundError as error:
        _stop_without(error)

    @click.group(
        cls=LazyGroup,
        modules={
            name: f"gradflow_jax.experiments.commands.{name}_command"
            for name in COMMANDS
        },
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    @click.version_option(gradflow_jax.__version__, prog_name="gradflow-jax")
    def command() -> None:
        """Pruning of neural networks in JAX, on the gradient-flow view."""

    try:
        sys.exit(command(prog_name="gradflow-jax", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        name = error.ctx.command_path if error.ctx else "gradflow-jax"
        message = " ".join(error.format_message().split())
        _stop(f"{message} See {name} --help.", 2)
    except click.ClickException as error:
        _stop(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _stop("stopped.", 130)
    except ModuleNotFoundError as error:
        _stop_without(error)
    except OSError as error:
        # A full disk, for one; what it is about stands in the error if it has a name.
        _stop(" ".join(str(error).split()), 1)


def _stop_without(error: ModuleNotFoundError) -> NoReturn:
    """Says which package is absent; one that our own code asks users for says more."""
    if error.name is None:
        _stop(str(error), 1)
    _stop(
        f"the command needs {error.name}: pip install 'gradflow-jax[cli]' brings "
        "what it needs.",
        1,
    )


def _stop(message: str, code: int) -> NoReturn:
    print(f"gradflow-jax: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
