"""`qworker watch`: follow one task until it has ended, then print what `result` prints.

    inspect, once a second ─► View ─┬─► a live picture on stderr          a terminal
                                    ├─► a line for each change on stderr  none
                                    └─► an object for each change         --json, on stdout
    its end ─────────────────────────► print_result

Watching changes nothing: who stops watching leaves the task alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .. import codec, ids
from ..errors import BrokerError, DecodeError
from ..log import escape
from ..model import Progress
from ..status import describe
from .client import TaskId, print_result
from .shared import Json, Namespace, Url, open_app, open_broker, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from ..app import App
    from ..broker.broker import Broker
    from ..status import Status
    from ..views import Inspection

__all__ = ["View", "lines_of", "picture", "view_of", "watch"]

EVERY_S = 1.0  # as often as a worker tells of its tasks
_BAR = 40  # columns


class View(NamedTuple):
    """What is shown of a task that has not ended."""

    status: Status
    lines: tuple[str, ...] = ()  # the last that it printed or logged
    trouble: str = ""  # why this is not what it is doing now

    @property
    def facts(self) -> tuple[Any, ...]:
        """What makes another view of it worth a line: all but what time alone changes."""
        status = self.status
        place = (status.before, status.workers) if status.worker == "" else ()
        return status.state, status.attempt, status.worker, status.stopping, status.progress, *place, self[1:]


def watch(
    task: TaskId,
    url: Url = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Follow a task until it has ended, and print its value as JSON. Exits 1 when it ended in another way.

    What it is doing goes to stderr; with --json, as one object for each change, to stdout, before that of its end.
    Ctrl-C ends the watching and leaves the task alone.
    """
    ids.split_id(task)
    try:
        with open_app(url, namespace) as app:
            with open_broker(url, namespace) as broker, _screen(as_json=as_json) as screen:
                _follow(app, broker, task, screen)
            print_result(app.future(task), None, as_json=as_json)
    except KeyboardInterrupt:
        print(escape(f"{task} is left alone: it goes on"), file=sys.stderr)
        raise


def _follow(app: App, broker: Broker, task: str, screen: Screen) -> None:
    """Show what a task is doing until it has an outcome, or nothing is known of it."""
    future = app.future(task)
    queue, local = ids.split_id(task)
    view: View | None = None
    while True:
        try:
            found = future.client().inspect(task)
            if found.worker:
                with contextlib.suppress(BrokerError):  # a hint, that who may only look may not give
                    broker.watch(queue, local, found.worker)
        except BrokerError as error:
            if view is None:
                raise
            screen.show(view._replace(trouble=f"the server does not answer: {error}"))
        else:
            if found.outcome is not None or found.state is None:
                return
            view = view_of(task, found)
            screen.show(view)
        if future.wait(EVERY_S):
            return


def view_of(task: str, found: Inspection) -> View:
    """Return what is shown of a task, as it was found."""
    try:
        told = None if found.progress is None else codec.unpack_told(found.progress)
    except DecodeError:
        told = None  # nobody of ours wrote it
    return View(describe(task, found), () if told is None else told.lines)


class Screen(Protocol):
    """Where views are shown."""

    def show(self, view: View) -> None: ...


class _Picture:
    """One picture, drawn anew for each view."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, view: View) -> None:
        self._live.update(picture(view), refresh=True)


class _Changes:
    """What is new in each view that differs from the last, as lines; or the whole of it, as one object."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._last: View | None = None

    def show(self, view: View) -> None:
        last, self._last = self._last, view
        if last is not None and view.facts == last.facts:
            return
        if self._as_json:
            print_json(_as_json(view))
        else:
            print("\n".join(lines_of(view, last)), file=sys.stderr)
        sys.stdout.flush()


@contextlib.contextmanager
def _screen(*, as_json: bool) -> Iterator[Screen]:
    from .terminal import Console, draws

    if as_json or not draws(sys.stderr):
        yield _Changes(as_json=as_json)
        return
    from rich.live import Live

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    # What is drawn goes when the task has ended: its end is told below, in words that stay.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Picture(live)


def lines_of(view: View, last: View | None = None) -> Iterator[str]:
    """Yield a view as lines, safe to print; after `last`, only what is new since."""
    if last is None or view.facts != last._replace(lines=view.lines).facts:
        yield escape(f"{view.status.id} {view.status}")
        if view.trouble:
            yield escape(f"  {view.trouble}")
    for line in _fresh(() if last is None else last.lines, view.lines):
        yield escape(f"  | {line}")


def _fresh(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines that were not there before: only the last few are told, and earlier ones move out at the top."""
    same = next((size for size in range(min(len(before), len(now)), 0, -1) if before[-size:] == now[:size]), 0)
    return now[same:]


def picture(view: View) -> RenderableType:
    """Return a view as it is drawn on a terminal."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    status = view.status
    rows: list[Any] = [Text(escape(f"{status.id} {status.name}".rstrip()), style="bold"), Text(escape(str(status)))]
    share = None if status.progress is None else _share(status.progress)
    if share is not None:
        rows.append(Columns([ProgressBar(total=1.0, completed=share, width=_BAR), Text(f"{share:4.0%}")]))
    rows += [Text(escape(f"  {line}"), style="dim") for line in view.lines]
    if view.trouble:
        rows.append(Text(escape(view.trouble), style="yellow"))
    return Group(*rows)


def _share(progress: Progress) -> float | None:
    """Return how much of it is done, between 0 and 1; None: nobody knows of how much."""
    if progress.total is None or not progress.total > 0:
        return None
    return min(1.0, max(0.0, progress.done / progress.total)) if progress.done == progress.done else None


def _as_json(view: View) -> dict[str, Any]:
    status = view.status
    return {
        "id": status.id,
        "state": status.state,
        "says": str(status),
        "attempt": status.attempt,
        "attempts": status.attempts,
        "worker": status.worker or None,
        "running_for_s": status.ran_for,
        "stopping": status.stopping,
        "progress": None if status.progress is None else status.progress._asdict(),
        "lines": list(view.lines),
        "trouble": view.trouble or None,
    }
