"""The console of rich's on which verbs draw. Imported by those that do, when they do: rich takes its time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import rich.console

from ..log import escape

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Console", "draws"]


def draws(stream: TextIO) -> bool:
    """Whether a picture can be drawn anew there: a terminal that moves its cursor. On others rich shows nothing."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class Console(rich.console.Console):
    """A console that no string rules, and that leaves it to `run` what a reader means who has gone.

    rich's own lets escape sequences through, and would exit with 1.
    """

    def render_str(self, text: str, **how: Any) -> Text:
        """Escape each bare string that is drawn, alone or within a group: it may hold anybody's text."""
        return super().render_str(escape(text), **how)

    def on_broken_pipe(self) -> NoReturn:
        """Raise what rich has just caught."""
        raise BrokenPipeError
