"""Import what the user named: `module:attr` targets, and the tasks and hooks of the apps that they are.

With `--allow`, functions of modules are tasks, too (allowed.py): those modules are imported with the targets, so that a
wrong name ends the start and not a task.

Called in the fork server, once; in children that are started as fresh interpreters; never in the worker.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..allowed import EVERYTHING, Allowed, permits
from ..config import Settings
from ..errors import AppImportError
from .slots import RunnableTask


@dataclass(frozen=True, slots=True)
class Apps:
    """Everything that children need of the apps of one worker."""

    url: str | None
    namespace: str
    tasks: Mapping[str, RunnableTask]
    hooks: tuple[Callable[[], object], ...]  # run in each child at its start
    allow: tuple[str, ...] = ()  # modules whose functions are tasks, too
    load_client: Callable[[], object] = lambda: None  # imports what tasks need that submit others
    home: tuple[str | None, str] = (None, "default")  # the worker's server and namespace, as settings or the apps say

    def find(self, name: str) -> RunnableTask | None:
        """Return what a task of this name runs; None if nothing may."""
        task = self.tasks.get(name)
        if task is None and permits(self.allow, name):
            task = Allowed(name, self.allow)
        return task


def load(targets: Sequence[str], cwd: str, allow: Sequence[str] = ()) -> Apps:
    """Import the targets and the allowed modules, looking in `cwd` first.

    Raises:
        AppImportError: one line: which target, what was found, what to do.
    """
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    found = [(target, _import(target, cwd)) for target in targets]
    for module in allow:
        if module != EVERYTHING:
            _import_module(module, module, cwd)
    if not found and allow:
        return Apps(None, "default", {}, (), tuple(allow), home=_home(None, "default"))
    if not found:
        raise AppImportError("no app to run: name at least one, as in `qworker start tasks:app`")
    first, app = found[0]
    tasks: dict[str, RunnableTask] = {}
    for target, other in found:
        for what in ("url", "namespace"):
            mine, theirs = getattr(app, what), getattr(other, what)
            if mine != theirs:
                raise AppImportError(
                    f"cannot run {first} and {target} in one worker: their {what} differ ({mine!r} and {theirs!r}); "
                    "start a worker for each"
                )
        for name, task in other.tasks.items():
            if tasks.setdefault(name, task) is not task:
                raise AppImportError(f"cannot run {target}: another app of this worker has a task {name!r}, too")
    hooks = tuple(dict.fromkeys(hook for _, other in found for hook in other.child_start_hooks))
    home = _home(app.url, app.namespace)
    return Apps(app.url, app.namespace, tasks, hooks, tuple(allow), app.load_client, home)


def _home(url: str | None, namespace: str) -> tuple[str | None, str]:
    """Return what the worker serves: its settings, which it hands down, go before what the apps say."""
    settings = Settings.load({})
    return settings.url or url, settings.namespace or namespace


def _import_module(target: str, module_name: str, cwd: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise AppImportError(
                f"cannot import {target}: there is no module {error.name!r} in {cwd} or on the Python path; "
                "start the worker where it is, or set PYTHONPATH"
            ) from error
        raise AppImportError(f"cannot import {target}: {_last_line(error)}") from error
    except BaseException as error:  # user code runs at import: a SystemExit or worse must become one line, too
        raise AppImportError(f"cannot import {target}: {_last_line(error)}") from error


def _import(target: str, cwd: str) -> Any:
    module_name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise AppImportError(f"cannot import {target!r}: write it as module:attribute, as in tasks:app")
    module = _import_module(target, module_name, cwd)
    try:
        app = getattr(module, attribute)
    except AttributeError as error:
        raise AppImportError(
            f"cannot import {target}: module {module_name!r} ({getattr(module, '__file__', 'built in')}) "
            f"has no attribute {attribute!r}"
        ) from error
    if not all(hasattr(app, name) for name in ("tasks", "url", "namespace", "child_start_hooks")):
        raise AppImportError(f"cannot run {target}: it is of type {type(app).__qualname__}, not a qworker.App")
    return app


def _last_line(error: BaseException) -> str:
    """Say what went wrong and where, in one line."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "unknown place"
    what = " ".join(str(error).split()) if not isinstance(error, SyntaxError) else str(error.msg)
    return f"{type(error).__qualname__}: {what} ({where})" if what else f"{type(error).__qualname__} ({where})"
