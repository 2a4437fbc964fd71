"""What the demo shows while it plays: a line per event, and below them, on a terminal, bars that move.

    Story ─► headline, event, bar, advance ─┬─► Screen on a terminal: rich's bars, with the rate
                                            ├─► Screen elsewhere: plain lines, the state every few seconds
                                            └─► Dark: nothing, for --json

`advance` may be called from any thread, the rest from one.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

__all__ = ["Dark", "Screen"]

REPORT_EVERY_S = 2.0
WIDEST = 100
_STYLES = {
    "killed -9": "bold red",
    "killed": "red",
    "stopped": "yellow",
    "cancelled": "yellow",
    "survivor": "bold magenta",
    "gone": "magenta",
    "rescued": "bold green",
    "again": "green",
}


class Dark:
    """Shows nothing."""

    def __enter__(self) -> Dark:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing was begun."""

    def headline(self, title: str, text: str) -> None:
        """Say what this is about."""

    def event(self, word: str, text: str) -> None:
        """Say that something has happened."""

    def bar(self, key: str, title: str, total: int) -> None:
        """Begin to count something."""

    def advance(self, key: str) -> None:
        """Count one more of it."""

    def pulse(self) -> None:
        """Called often: a chance to say how far it is."""


class Screen(Dark):
    """Shows it to people."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._began = self._reported = time.monotonic()
        self._lock = threading.Lock()
        self._bars: dict[str, _Bar] = {}
        self._progress = Progress(
            TextColumn("         {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            console=console,
            auto_refresh=self._live,
            disable=not self._live,
        )

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def headline(self, title: str, text: str) -> None:
        """Say what this is about."""
        line = Text.assemble("\n", (title, "bold"), "  ", (text, "dim"), "\n")
        self._console.print(line, width=min(WIDEST, self._console.width))

    def event(self, word: str, text: str) -> None:
        """Say that something has happened, when and in which word."""
        seconds = f"{time.monotonic() - self._began:5.1f} s"
        if not self._live:
            self._console.print(f"{seconds}  {word:<9}  {text}", markup=False, highlight=False, soft_wrap=True)
            return
        line = Table.grid(padding=(0, 2))
        line.add_column(width=7, style="dim")
        line.add_column(width=9, style=_STYLES.get(word, "cyan"))
        line.add_column(max_width=WIDEST)
        line.add_row(seconds, word, Text(text))
        self._console.print(line, width=min(WIDEST, self._console.width))

    def bar(self, key: str, title: str, total: int) -> None:
        """Begin to count something, up to `total`."""
        number = self._progress.add_task(title, total=total)
        self._bars[key] = _Bar(title, total, number)

    def advance(self, key: str) -> None:
        """Count one more of it."""
        bar = self._bars[key]
        with self._lock:
            bar.done += 1
        self._progress.advance(bar.number)

    def pulse(self) -> None:
        """Say how far it is, where there are no bars and it was not said just now."""
        if self._live or time.monotonic() - self._reported < REPORT_EVERY_S:
            return
        self._reported = time.monotonic()
        moving = [bar for bar in self._bars.values() if bar.done < bar.total]
        if moving:
            self.event("so far", ", ".join(f"{bar.title} {bar.done:,} of {bar.total:,}" for bar in moving))


class _Rate(ProgressColumn):
    """How many per second: lately, and in the end on the whole."""

    def render(self, task: Task) -> Text:
        """Return the text of this column."""
        speed = task.finished_speed if task.finished else task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="dim")


class _Bar:
    """One thing that is counted. `done` is under the screen's lock."""

    def __init__(self, title: str, total: int, number: TaskID) -> None:
        self.title, self.total, self.number = title, total, number
        self.done = 0
