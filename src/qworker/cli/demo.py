"""`qworker demo`: real work, hung tasks, kills, and a ledger of it all, on this machine and without a server."""

from __future__ import annotations

import json as jsonlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from ..demo.ledger import Ledger, as_json, judge
from ..demo.screen import Dark, Screen
from ..demo.show import print_ledger
from .terminal import Console

__all__ = ["demo"]

FILES = 1200
_ENDED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """The demo was told to end, by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def demo(
    json: Annotated[bool, typer.Option("--json", help="Print the ledger as one JSON object only.")] = False,
    files: Annotated[int, typer.Option("--files", min=1, help="Work on so many source files.")] = FILES,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory: logs, notes, data, copies.")] = False,
) -> None:
    """See it work: real tasks, some hang, some are stopped, a child and a worker are killed; then the ledger.

    Needs no Redis and takes under a minute. Nothing of yours is touched: it has a directory, a server and workers of
    its own, and leaves nothing of them behind. Exit codes: 0 all is as promised; 1 something was lost, wrong or still
    running.
    """
    from ..demo.stage import DemoFailed

    console = Console(highlight=False)
    try:
        with _interruptible():
            ledger = _play(Dark() if json else Screen(console), files, keep=keep)
    except _Ended as ended:
        left = "no process of the demo is left, its directory is kept" if keep else "nothing of the demo is left"
        typer.echo(f"Interrupted: {left}.", err=True)
        raise typer.Exit(128 + ended.number) from None
    except DemoFailed as failure:
        if not json:
            raise
        typer.echo(jsonlib.dumps({"ok": False, "problems": [str(failure)]}))
        raise typer.Exit(1) from None
    if json:
        typer.echo(jsonlib.dumps(as_json(ledger)))
    else:
        print_ledger(console, ledger)
    raise typer.Exit(0 if ledger.ok else 1)


def _play(screen: Dark, files: int, *, keep: bool) -> Ledger:
    from ..demo.corpus import shipped
    from ..demo.stage import Stage
    from ..demo.story import Story

    paths = shipped(files)
    screen.headline(
        "qworker demo",
        f"Two workers read {len(paths):,} of the source files that this Python ships.\n"
        "Meanwhile tasks hang, fail and are stopped, and processes are killed.",
    )
    with Stage(keep=keep) as stage, screen:
        ledger = judge(Story(stage, screen, paths).play())
        if keep:
            screen.event("kept", str(stage.directory))
    return ledger


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise `_Ended` where the first signal to end arrives, so that everything is put away on the way out."""

    def end(number: int, _: Any) -> NoReturn:
        raise _Ended(number)

    before = {number: signal.signal(number, end) for number in _ENDED_BY}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
