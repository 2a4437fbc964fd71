"""What the verbs share: how they find the server, and how values and tables are shown.

Everything that is printed may be anybody's text: ids, names, errors and values come from whoever can write to the
server. So control characters are escaped before they reach a terminal, and no text is read as markup.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import durations
from ..config import Settings
from ..errors import ConfigError
from ..log import escape

if TYPE_CHECKING:
    from rich.console import Group

    from ..app import App
    from ..broker.broker import Broker

__all__ = [
    "TIMES",
    "Json",
    "Namespace",
    "Url",
    "escape_lines",
    "moment",
    "open_app",
    "open_broker",
    "plain",
    "print_json",
    "print_rows",
    "print_table",
    "said",
    "table",
    "when",
]

TIMEOUT_S = 5.0
TIMES = "90s, 1h30m, or a time with its zone, as 2030-12-31T18:00+01:00"
_WHOLE = 40  # characters: a generated id in a queue with a name of some length
_DEEPEST = 150  # levels of a value that are shown
_WIDE = 250  # columns in a pipe, where nobody wraps

Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The server; else QWORKER_URL, else the embedded one.")
]
Namespace = Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="The project's part of the server.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object for machines.")]


def open_app(url: str | None, namespace: str | None) -> App:
    """Return an app of no tasks, by which single ones are submitted, awaited and stopped."""
    from ..app import App

    return App(url, namespace=namespace, connect_timeout=TIMEOUT_S)


def open_broker(url: str | None, namespace: str | None) -> Broker:
    """Return a broker to look at queues and workers with."""
    from ..broker.broker import Broker

    settings = Settings.load({"url": url, "namespace": namespace})
    address = settings.url
    if address is None:
        from ..broker import embedded

        server = embedded.ensure()
        address = server.url
        if server.started:
            print(escape(f"no server's URL is set: {server.line}"), file=sys.stderr)
    return Broker(address, settings.namespace or "default", timeout_s=TIMEOUT_S, role="cli")


def moment(flag: str, text: str | None) -> str | datetime | None:
    """Return a duration as it is, and a time as one."""
    if text is None:
        return None
    try:
        durations.seconds(text)
    except ConfigError:
        pass
    else:
        return text
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text}: expected {TIMES}") from None
    if when.utcoffset() is None:
        try:
            here = f"; {when.astimezone().isoformat()} is that here"
        except (ValueError, OverflowError):  # no year that clocks know
            here = ""
        raise ConfigError(f"{flag} {text}: a time without a zone could mean any hour: add +01:00, or Z for UTC{here}")
    return when


def plain(value: object, _within: int = 0) -> Any:
    """Return a task's value as JSON can say it: bytes as base64, times as ISO 8601, sets sorted by what they show."""
    if _within > _DEEPEST:
        return "(nested deeper than can be shown)"  # qworker encodes nothing like it
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else said(key): plain(item, _within + 1) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, _within + 1) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(item, _within + 1) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def said(value: object) -> str:
    """Return a task's value as one line of JSON, safe to print."""
    return escape(json.dumps(plain(value), ensure_ascii=False))


def print_json(value: object) -> None:
    """Print one JSON object for machines."""
    print(json.dumps(plain(value)))


def escape_lines(text: str) -> str:
    """Return text of several lines, safe to print."""
    return "\n".join(escape(line) for line in text.splitlines())


def when(unix_ms: int) -> str:
    """Return a moment as people read it, in their own zone."""
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone().isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms after 1970"  # no year that people know


def print_rows(rows: Iterable[tuple[str, str]], *, file: Any = None) -> None:
    """Print names and what they are, one a line, aligned; continued lines are indented."""
    shown = [(escape(name), escape_lines(text)) for name, text in rows if text]
    width = max((len(name) for name, _ in shown), default=0) + 2
    for name, text in shown:
        print(f"{name:<{width}}" + text.replace("\n", "\n" + " " * width), file=file or sys.stdout)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Group:
    """Return a titled table in which columns whose names begin with `>` are numbers, aligned to the right."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    rows = list(rows)
    for number, column in enumerate(columns):
        # An id is copied, so it stays in one piece where that leaves room for the rest.
        whole = column == "task" and max((len(escape(row[number])) for row in rows), default=0) <= _WHOLE
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        made.add_column(column.lstrip(">"), justify=justify, overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*(Text(escape(cell)) for cell in row))
    return Group(Text(title, style="bold"), made)  # a Table's own title wraps at the width of its table


def print_table(*parts: Any) -> None:
    """Print tables and lines with rich; as wide as the terminal, or as they need where there is none."""
    from .terminal import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
    console = Console(width=wide, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part)
