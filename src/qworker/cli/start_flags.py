"""What typer makes of `qworker start`: its help, and what it says of a command line that start.py cannot read itself.

The flags are made from `Settings`, where each setting lives once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, cast

import typer

from .. import durations
from ..config import Settings
from .start import SWITCHES, run_worker


def _metavar(name: str, own: str | None) -> str:
    return own or ("DURATION" if name.endswith("_s") else "VALUE")


def _default(name: str, value: object) -> str:
    """Return how a help text ends: with the default, where there is one to be told."""
    if name in SWITCHES or value is None or value == ():
        return ""
    shown = durations.text(cast("float", value)) if name.endswith("_s") else str(value)
    return f" [default: {','.join(value) if isinstance(value, tuple) else shown}]"


def _with_flags(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command one option for each setting; it receives those that were given, by name."""

    def run(targets: list[str] | None = None, **flags: Any) -> None:
        raise typer.Exit(command(targets or [], {name: value for name, value in flags.items() if value is not None}))

    target = Annotated[
        list[str] | None,
        typer.Argument(metavar="MODULE[:APP]...", help="Where the apps are: tasks:app, or tasks for an app named app."),
    ]
    parameters = [
        inspect.Parameter("targets", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=target)
    ]
    for setting in fields(Settings):
        kind: Any = bool if setting.name in SWITCHES else str
        option = typer.Option(
            setting.metadata["flag"],
            help=setting.metadata["help"] + _default(setting.name, setting.default),
            metavar=None if setting.name in SWITCHES else _metavar(setting.name, setting.metadata["metavar"]),
            show_default=False,
        )
        parameters.append(
            inspect.Parameter(
                setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
            )
        )
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.__doc__
    return run


start = _with_flags(run_worker)
