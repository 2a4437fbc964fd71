"""Functions that run although nobody registered them: those of the modules that a worker was started with `--allow`.

    producer   importable_name(math.factorial) ─► "math.factorial"            nothing else of the function travels
    worker     name in Names(registered, allow)                               else the task waits for another worker
    child      Allowed("math.factorial").fn ─► import, getattr ─► is it what is defined under that very name? ─► run

A name is `module.qualname`, as tasks are named. What a module merely imported is not its own: `--allow tasks` does not
make `tasks.os.system` a function of `tasks`, because the function that is found there says that it is another's.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Self

from .binding import main_module
from .config import EVERYTHING
from .errors import BadCall
from .model import PoolNeed

__all__ = ["EVERYTHING", "Allowed", "Names", "NotRunnable", "importable_name", "importing", "permits"]

_here = threading.local()


class NotRunnable(LookupError):
    """A name that no function of an allowed module has; the text says what was found instead."""


class Names(frozenset[str]):
    """The names that the children of a worker can run: the registered ones, which are its items, and allowed ones."""

    allow: tuple[str, ...] = ()

    @classmethod
    def of(cls, registered: Iterable[str], allow: tuple[str, ...]) -> Self:
        """Return the names of these tasks, and of whatever the functions of these modules are called."""
        names = cls(registered)
        names.allow = allow
        return names

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and permits(self.allow, name))


class Allowed:
    """A function of an allowed module, as a child runs it: imported when it is first needed, in the task's own time."""

    need: PoolNeed = "default"

    def __init__(self, name: str, allow: tuple[str, ...]) -> None:
        self.name = name
        self._allow = allow

    @property
    def fn(self) -> Callable[..., Any]:
        """The function.

        Raises:
            NotRunnable: there is none of that name, or it is another's.
        """
        return _find(self.name, self._allow)

    @property
    def is_async(self) -> bool:
        """Whether calling it returns a coroutine."""
        return inspect.iscoroutinefunction(self.fn)


def permits(allow: tuple[str, ...], name: str) -> bool:
    """Whether a name is one of a function of these modules, or of modules in them, as far as a name can tell."""
    return any(name.startswith(f"{module}.") or (module == EVERYTHING and "." in name) for module in allow)


def importing() -> bool:
    """Whether this thread is importing the module of an allowed function just now."""
    return getattr(_here, "importing", False)


def importable_name(fn: Callable[..., Any]) -> str:
    """Return the name by which any process that can import the module of a function finds it.

    Raises:
        BadCall: there is no such name; the text says why, and what to do.
    """
    if not callable(fn):
        raise BadCall(
            f"cannot submit {fn!r}: it is of type {type(fn).__qualname__}, not a function; nothing was queued"
        )
    home = _home(fn)
    if home is None:
        what = "it is a method of one object" if inspect.ismethod(fn) or inspect.isbuiltin(fn) else "it has no name"
        raise BadCall(
            f"cannot submit {fn!r}: {what}, and only a name travels to the worker; "
            "define a function in a module that takes the object's data; nothing was queued"
        )
    module, qualified = home
    if "<lambda>" in qualified or "<locals>" in qualified:
        what = "a lambda" if qualified.endswith("<lambda>") else f"{fn.__name__}, defined inside another function,"
        raise BadCall(
            f"cannot submit {what} of {module}: a worker cannot import it; define it with def at the top of a module; "
            "nothing was queued"
        )
    return f"{main_module() if module == '__main__' else module}.{qualified}"


def _home(fn: Any) -> tuple[str, str] | None:
    """Return the module and the qualified name under which something says that it is to be found, if it does."""
    owner = getattr(fn, "__self__", None)
    if owner is None or isinstance(owner, ModuleType):
        owner = getattr(fn, "__objclass__", None)  # of `str.upper`
        if owner is None:
            module, qualified = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
            known = isinstance(module, str) and isinstance(qualified, str) and module and qualified
            return (module, qualified) if known else None  # type: ignore[return-value]
    if not isinstance(owner, type):
        return None
    return owner.__module__, f"{owner.__qualname__}.{fn.__name__}"  # a class's method, or the class's own


@functools.lru_cache(maxsize=1024)
def _find(name: str, allow: tuple[str, ...]) -> Callable[..., Any]:
    from .task import BoundTask

    module, rest = _import(name, allow)
    found: Any = module
    for at, part in enumerate(rest):
        inside, shown = found, ".".join([module.__name__, *rest[:at]])
        # Through classes only: on the way through anything else lies what the module merely uses.
        named = isinstance(inside, ModuleType | type) and not part.startswith("__")
        found = getattr(inside, part, None) if named else None
        if found is None:
            raise NotRunnable(f"cannot run {name}: {shown} has no function {part!r}")
        if isinstance(found, ModuleType):
            raise NotRunnable(f"cannot run {name}: {part!r} is a module that {shown} imported")
    if isinstance(found, BoundTask):
        found = getattr(found, "fn", None)
    if not callable(found):
        raise NotRunnable(f"cannot run {name}: it is of type {type(found).__qualname__}, not a function")
    home = _home(found)
    if home is None or ".".join(home) != name:
        known = "nothing that tells its name" if home is None else f"{'.'.join(home)}, of another name"
        raise NotRunnable(f"cannot run {name}: what is found there is {known}; submit and allow it under its own")
    function: Callable[..., Any] = found
    return function


def _import(name: str, allow: tuple[str, ...]) -> tuple[ModuleType, list[str]]:
    """Import the longest beginning of a name that is a module; return it, and the rest of the name."""
    parts = name.split(".")
    if parts[0] == "__main__":
        raise NotRunnable(f"cannot run {name}: __main__ is another module in each process")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if not permits(allow, f"{module}."):
            break
        before, _here.importing = importing(), True
        try:
            return importlib.import_module(module), parts[cut:]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise NotRunnable(f"cannot run {name}: importing {module} failed: {error}") from error
        except (Exception, SystemExit) as error:
            what = f"{type(error).__qualname__}: {error}"
            raise NotRunnable(f"cannot run {name}: importing {module} failed: {what}") from error
        finally:
            _here.importing = before
    raise NotRunnable(f"cannot run {name}: the worker finds no such module; start it where it is, or set PYTHONPATH")
