"""`qworker embedded`: look at and stop the server that a project gets when no URL is set.

    status   is it there, who is it, what does it hold       exit 0: it answers, 3: it does not
    url      the URL under which it is, or would be, found
    stop     stop it even while it is used; its data stay

Never starts a server: producers and workers do, by needing one.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import durations
from ..broker import embedded
from ..broker.places import STATE_DIR
from ..log import escape
from . import EXIT_UNHEALTHY
from .shared import escape_lines

app = typer.Typer(
    name="embedded",
    help="The server that a project gets when no URL is set: look at it, stop it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Directory = Annotated[
    Path | None,
    typer.Argument(help="A directory in the project; default: here.", exists=True, file_okay=False, show_default=False),
]


@app.command()
def status(
    directory: Directory = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for machines.")] = False,
) -> None:
    """Show the project's embedded server. Exits 0 when it answers, else 3."""
    seen = embedded.status(embedded.find_root(directory))
    typer.echo(json.dumps({**asdict(seen), "root": str(seen.root)}) if as_json else escape_lines(_describe(seen)))
    raise typer.Exit(0 if seen.answer == "+PONG" else EXIT_UNHEALTHY)


@app.command()
def url(directory: Directory = None) -> None:
    """Print the URL of the project's embedded server, running or not."""
    root = embedded.find_root(directory)
    typer.echo(embedded.status(root).url or embedded.url_of(root))


@app.command()
def stop(directory: Directory = None) -> None:
    """Stop the project's embedded server, even while it is used. Its data stay."""
    root = embedded.find_root(directory)
    used = embedded.status(root).used
    if not embedded.stop(root):
        said = f"no embedded server runs for {root}"
    elif used:
        said = f"stopped the embedded server of {root}; a process that still uses it may start it again"
    else:
        said = f"stopped the embedded server of {root}"
    typer.echo(escape(said))


def _describe(seen: embedded.Status) -> str:
    rows = [("project", str(seen.root))]
    if not seen.running:
        rows.append(("server", "not running; the next producer or worker without a URL starts it"))
    else:
        name = Path(seen.binary).name or "a server"
        use = "in use" if seen.used else "unused"
        rows.append(("server", f"{name}, pid {seen.server}, guardian {seen.guardian}, {use}"))
        rows.append(("answer", seen.answer.lstrip("+-") or "none"))
        rows.append(("url", seen.url or "not known yet"))
        if seen.started is not None:
            rows.append(("up for", durations.text(max(0.0, time.time() - seen.started))))
    rows.append(("data", f"{seen.data_bytes:,} bytes in {seen.root / STATE_DIR}"))
    return "\n".join(f"{name:<8}{text}" for name, text in rows)
