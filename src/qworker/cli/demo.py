"""`qworker demo`: real work, hung tasks, kills, and a ledger of it all, on this machine and without a server."""

from __future__ import annotations

import json as jsonlib
import signal
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

__all__ = ["demo"]

FILES = 1200


class _Ended(BaseException):
    """The demo was told to end by a signal."""

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
    from ..demo import corpus
    from ..demo.ledger import as_json, judge
    from ..demo.screen import Dark, Screen
    from ..demo.show import print_ledger
    from ..demo.stage import DemoFailed, Stage
    from ..demo.story import Story

    console = Console(highlight=False)
    screen = Dark() if json else Screen(console)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        paths = corpus.shipped(files)
        screen.headline(
            "qworker demo",
            f"Two workers read the {len(paths):,} source files that this Python ships.\n"
            "Meanwhile tasks hang, fail and are stopped, and processes are killed.",
        )
        with Stage(keep=keep) as stage, screen:
            ledger = judge(Story(stage, screen, paths).play())
    except _Ended as ended:
        raise typer.Exit(128 + ended.number) from None
    except DemoFailed as failure:
        if json:
            typer.echo(jsonlib.dumps({"ok": False, "problems": [str(failure)]}))
        else:
            typer.echo(f"qworker demo: {failure}", err=True)
        raise typer.Exit(1) from None
    if json:
        typer.echo(jsonlib.dumps(as_json(ledger)))
    else:
        print_ledger(console, ledger)
        if keep:
            console.print(f"Kept: {stage.directory}", markup=False)
    raise typer.Exit(0 if ledger.ok else 1)


def _end(number: int, _: Any) -> NoReturn:
    raise _Ended(number)
