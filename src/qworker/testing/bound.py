"""A user's app for the time of one test: bound to a private server or inline, with note taken of what it submits."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from .. import codec
from ..app import App
from ..errors import ConfigError
from ..future import Future
from ..model import Draft
from ..task import BoundTask

__all__ = ["Bound", "assert_submitted", "find", "target_of"]

_submitted: weakref.WeakKeyDictionary[App, list[Draft]] = weakref.WeakKeyDictionary()


class Bound:
    """One app that is bound; `undo` makes it what it was. `url` None: inline."""

    def __init__(self, app: App | str | None, *, url: str | None) -> None:
        self.app = app = App() if app is None else find(app)
        if app in _submitted:
            raise ConfigError(f"{app!r} is bound already in this test; bind it once")
        self._before = (app._address.given, app.inline, app._inline)
        app.close()
        app._address.given, app.inline, app._inline = url, url is None, None
        noted = _submitted[app] = []
        send, asend = app.send, app.asend

        def noting(drafts: list[Draft]) -> list[Future[Any]]:
            futures = send(drafts)
            noted.extend(drafts)
            return futures

        async def noting_async(draft: Draft) -> Future[Any]:
            future = await asend(draft)
            noted.append(draft)
            return future

        app.send, app.asend = noting, noting_async  # type: ignore[method-assign]

    def undo(self) -> None:
        """Make the app what it was."""
        app = self.app
        del app.send, app.asend
        app.close()
        app._address.given, app.inline, app._inline = self._before
        _submitted.pop(app, None)


def assert_submitted(
    app: App,
    task: BoundTask[..., Any] | str | Callable[..., Any],
    /,
    *args: Any,
    times: int | None = None,
    **kwargs: Any,
) -> None:
    """Fail unless this app has submitted this task in this test, with these arguments if any are given.

    Arguments are compared as the task would get them: by parameter, and after their way through encoding and decoding.
    `times`: exactly so often; None: at least once. The app is one that the fixture `qworker_app` bound.
    """
    __tracebackhide__ = True
    if app not in _submitted:
        raise ConfigError(f"nothing is noted of {app!r}: bind it with the fixture qworker_app")
    wanted = task if isinstance(task, BoundTask) else app.named(task)
    calls = [codec.unpack_body(draft.body) for draft in _submitted[app] if draft.name == wanted.name]
    matching = calls
    if args or kwargs:
        expected = _by_parameter(wanted, *codec.unpack_body(codec.pack_body(args, kwargs)))
        matching = [call for call in calls if _by_parameter(wanted, *call) == expected]
    if matching if times is None else len(matching) == times:
        return
    call = _shown(wanted.name, args, kwargs) if args or kwargs else wanted.name
    often = "not submitted" if not matching else f"submitted {len(matching)} times"
    asked = "" if times is None else f", expected {times}"
    same = [_shown(draft.name, *codec.unpack_body(draft.body)) for draft in _submitted[app]]
    raise AssertionError(f"{call} was {often}{asked}; submitted were: {'; '.join(same) or 'no tasks at all'}")


def find(app: App | str) -> App:
    """Return the app that `module:attribute` names, or the given one."""
    if isinstance(app, App):
        return app
    module, _, attribute = app.partition(":")
    found = getattr(import_module(module), attribute or "app", None)
    if not isinstance(found, App):
        raise ConfigError(f"{app!r} names no App: expected module:attribute, as in 'shop.tasks:app'")
    return found


def target_of(app: App | str) -> str:
    """Return where a worker finds this app, as `module:attribute`."""
    if isinstance(app, str):
        return app
    own = {task.fn.__module__ for task in app.tasks.values()}
    for name in [*sorted(own), *sys.modules]:
        for attribute, value in list(vars(sys.modules[name]).items()) if name in sys.modules else ():
            if value is app and name != "__main__":
                return f"{name}:{attribute}"
    raise ConfigError(
        f"{app!r} is in no module's namespace, and a worker imports the app by its module: "
        "put it into one, and its tasks with it"
    )


def _by_parameter(task: BoundTask[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    fn = getattr(task, "fn", None)
    if fn is None:
        return list(args), dict(kwargs)
    bound = inspect.signature(fn).bind(*args, **kwargs)
    bound.apply_defaults()
    return codec.pack_body(bound.args, bound.kwargs)


def _shown(name: str, args: Any, kwargs: Mapping[str, Any]) -> str:
    return f"{name}({', '.join([*map(repr, args), *(f'{key}={value!r}' for key, value in kwargs.items())])})"
