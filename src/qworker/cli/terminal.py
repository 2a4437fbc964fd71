"""The console of rich's on which verbs draw. Imported by those that do, when they do: rich takes its time."""

from __future__ import annotations

from typing import NoReturn

import rich.console

__all__ = ["Console"]


class Console(rich.console.Console):
    """A console that leaves it to `run` what a reader means who has gone; rich's own would exit with 1."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise what rich has just caught."""
        raise BrokenPipeError
