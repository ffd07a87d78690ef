"""The gradflow-jax command."""

import sys
from typing import NoReturn

import gradflow_jax


def main() -> None:
    """Runs the command; what the user did wrong is one line and exit code 2."""
    try:
        import click

        from gradflow_jax.experiments.evaluate_command import evaluate
        from gradflow_jax.experiments.observe_command import observe
        from gradflow_jax.experiments.prune_command import prune
        from gradflow_jax.experiments.report_command import report
        from gradflow_jax.experiments.reproduce_command import reproduce
    except ModuleNotFoundError as error:
        _stop(
            f"the command needs {error.name}: pip install 'gradflow-jax[cli]' brings "
            "what it needs.",
            1,
        )

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(gradflow_jax.__version__, prog_name="gradflow-jax")
    def command() -> None:
        """Pruning of neural networks in JAX, on the gradient-flow view."""

    for own in (prune, reproduce, evaluate, report, observe):
        command.add_command(own)
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


def _stop(message: str, code: int) -> NoReturn:
    print(f"gradflow-jax: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
