"""`qworker start`: run one worker until it is told to end.

The flags are made from `Settings`, where each setting lives once; what is given here goes before variables and files.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, cast

import typer

from .. import durations
from ..config import Settings
from ..errors import ConfigError

_SWITCHES = frozenset({"burst", "embedded", "allow_eviction"})


def _metavar(name: str, own: str | None) -> str:
    return own or ("DURATION" if name.endswith("_s") else "VALUE")


def _default(name: str, value: object) -> str:
    """Return how a help text ends: with the default, where there is one to be told."""
    if name in _SWITCHES or value is None or value == ():
        return ""
    shown = durations.text(cast("float", value)) if name.endswith("_s") else str(value)
    return f" [default: {','.join(value) if isinstance(value, tuple) else shown}]"


def _refuse_file(target: str) -> None:
    module, _, attribute = target.partition(":")
    if module.endswith(".py"):
        meant = f"{module.removesuffix('.py').removeprefix('./').replace('/', '.')}:{attribute or 'app'}"
        raise ConfigError(f"{target} is a file, and a module is expected: write {meant}, without .py")


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
        kind: Any = bool if setting.name in _SWITCHES else str
        option = typer.Option(
            setting.metadata["flag"],
            help=setting.metadata["help"] + _default(setting.name, setting.default),
            metavar=None if setting.name in _SWITCHES else _metavar(setting.name, setting.metadata["metavar"]),
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


@_with_flags
def start(targets: list[str], flags: dict[str, Any]) -> int:
    """Run a worker: claim tasks in windows, run them, stop them for real.

    TERM and Ctrl-C drain: nothing more is claimed, what runs may finish. A second signal asks it to stop, a third
    kills.

    Exit codes: 0 done or drained, 1 error, 2 usage, 4 drained but work was killed, 128+n after a second signal.
    """
    for target in targets:
        _refuse_file(target)
    settings = Settings.load(flags)
    if not targets and not settings.allow:
        raise ConfigError(
            "no app to run: name at least one, as in `qworker start tasks:app`, or modules whose functions may run "
            "without one: --allow MODULE"
        )
    from .. import log
    from ..worker.daemon import serve

    log.setup(settings.log_format, settings.log_level)
    try:
        return serve(settings, targets)
    finally:
        log.close()
