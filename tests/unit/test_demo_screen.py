"""What the demo says on the console of the command, which escapes bare strings."""

from __future__ import annotations

import io

from qworker.cli.terminal import Console
from qworker.demo.screen import Screen


def said(*, terminal: bool) -> str:
    stream = io.StringIO()
    screen = Screen(Console(file=stream, force_terminal=terminal, width=80, highlight=False, no_color=True))
    screen.headline("qworker demo", "Two workers\nand a kill.")
    screen.event("killed -9", "worker A [bold] of \x1b[2J")
    return stream.getvalue()


def test_the_headline_has_its_lines_and_an_event_stays_one() -> None:
    head, _, event = said(terminal=False).rpartition("\n\n")

    assert head == "\nqworker demo  Two workers\nand a kill."
    assert event == "  0.0 s  killed -9  worker A [bold] of \\x1b[2J\n"


def test_on_a_terminal_too() -> None:
    text = said(terminal=True)

    assert "Two workers" in text
    assert "\\n" not in text
