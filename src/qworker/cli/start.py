"""`qworker start`: run one worker until it is told to end.

    argv ── read() ─► targets, flags ─► run_worker() ─► Settings ─► serve()
         └─ what it does not know, and --help ─► start_flags.py, by typer

This very process becomes the worker, for weeks: what parsing brought in would stay. So the usual command line is read
here, without typer, and says nothing else than typer would; whatever is unusual in it is left to typer whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from .. import faultpoints
from ..config import Settings, working_directory
from ..errors import ConfigError

SWITCHES = frozenset({"burst", "embedded", "allow_eviction"})


def read(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]] | None:
    """Return the targets and the flags that were given, by the names of their settings; None: typer shall read it."""
    valued, switches = _known()
    targets: list[str] = []
    flags: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            targets.append(word)
            continue
        flag, equals, value = word.partition("=")
        given: str | bool
        if flag in switches and not equals:
            name, given = switches[flag]
        elif flag in valued and (equals or (value := next(words, "-"))[:1] != "-"):
            name, given = valued[flag], value
        else:
            return None
        if name in flags or (equals and not flag.startswith("--")):
            return None
        flags[name] = given
    return targets, flags


def _known() -> tuple[dict[str, str], dict[str, tuple[str, bool]]]:
    """Return the flags that take a value, and those that switch; with the names of their settings."""
    valued: dict[str, str] = {}
    switches: dict[str, tuple[str, bool]] = {}
    for setting in fields(Settings):
        on, _, off = setting.metadata["flag"].partition("/")
        if setting.name in SWITCHES:
            switches |= {on: (setting.name, True)} | ({off: (setting.name, False)} if off else {})
        else:
            valued[on] = setting.name
    return valued, switches


def run_worker(targets: list[str], flags: dict[str, Any]) -> int:
    """Run a worker: claim tasks in windows, run them, stop them for real.

    TERM and Ctrl-C drain: nothing more is claimed, what runs may finish. A second signal asks it to stop, a third
    kills.

    Exit codes: 0 done or drained, 1 error, 2 usage, 4 drained but work was killed, 128+n after a second signal.
    """
    for target in targets:
        _refuse_file(target)
    faultpoints.check()
    settings = Settings.load(flags)
    if not targets and not settings.allow:
        raise ConfigError(
            "no app to run: name at least one, as in `qworker start tasks:app`, or modules whose functions may run "
            "without one: --allow MODULE"
        )
    here = _working_directory()
    # The fork server first: it imports the apps while this process imports the worker.
    from ..pool import linux
    from ..pool.spawn import spawn

    linux.check_platform()
    spawned = spawn(settings.for_tasks(), targets, here, settings.allow)
    from .. import log
    from ..worker.daemon import serve

    log.setup(settings.log_format, settings.log_level)
    try:
        return serve(settings, targets, spawned=spawned)
    finally:
        log.close()


def _working_directory() -> str:
    here = working_directory()
    if here is None:
        raise ConfigError(
            "cannot start a worker here: the working directory is gone, and apps are imported from it. "
            "Change into the project"
        )
    return str(here)


def _refuse_file(target: str) -> None:
    module, _, attribute = target.partition(":")
    if module.endswith(".py"):
        meant = f"{module.removesuffix('.py').removeprefix('./').replace('/', '.')}:{attribute or 'app'}"
        raise ConfigError(f"{target} is a file, and a module is expected: write {meant}, without .py")
