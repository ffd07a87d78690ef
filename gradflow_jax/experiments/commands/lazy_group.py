"""A group of commands that are imported when they are asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Commands by the modules that define them under their names."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **options: Any):
        """Takes what a group of click takes, and the module of each command."""
        super().__init__(*args, **options)
        self._modules = dict(modules)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names, in the order of the alphabet."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a command, or None if there is none of this name."""
        if cmd_name not in self._modules:
            return None
        return getattr(import_module(self._modules[cmd_name]), cmd_name)
