"""Check that arguments fit a function before they travel, and name tasks after their functions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import BadCall, ConfigError

__all__ = ["Binder", "check_name", "main_module", "name_of", "name_of_class"]


class Binder:
    """Checks calls against one function's signature.

    The signature is read by the first call. What can be decided with sets is decided so; the rest, and every refusal's
    text, comes from `inspect`.
    """

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        self.fn = fn
        self._name = name
        self._signature: inspect.Signature | None = None
        self._read = False
        self._simple = False  # neither *args, **kwargs nor positional-only parameters
        self._positional: tuple[str, ...] = ()
        self._names: frozenset[str] = frozenset()
        self._required: frozenset[str] = frozenset()

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse a call that the function would refuse.

        Raises:
            BadCall: with the signature and what is wrong.
        """
        if not self._read:
            self._learn()
        if self._simple and len(args) <= len(self._positional):
            given = self._positional[: len(args)]
            if not kwargs:
                if self._required.issubset(given):
                    return
            elif (
                kwargs.keys() <= self._names
                and kwargs.keys().isdisjoint(given)
                and self._required.difference(given) <= kwargs.keys()
            ):
                return
        if self._signature is None:
            return  # a builtin that does not tell its signature: its own TypeError will say it, in the worker
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadCall(f"cannot submit {self._name}{self._signature}: {error}; nothing was queued") from None

    def _learn(self) -> None:
        try:
            self._signature = signature = inspect.signature(self.fn)
        except (ValueError, TypeError):
            self._read = True
            return
        parameters = signature.parameters.values()
        keyword_only = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
        positional = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        self._simple = len(keyword_only) + len(positional) == len(signature.parameters)
        self._positional = tuple(one.name for one in positional)
        self._names = frozenset(one.name for one in parameters)
        self._required = frozenset(one.name for one in parameters if one.default is one.empty)
        self._read = True  # last: another thread may be checking already


def check_name(name: str) -> str:
    """Return a given name of a task, or say why it cannot be one."""
    if not isinstance(name, str) or not name or not name.isprintable() or " " in name:
        raise ConfigError(f"{name!a} is not the name of a task: expected module.function, without spaces")
    return name


def name_of(fn: Callable[..., Any]) -> str:
    """Return the name under which a function is a task: `module.function`, the same in producer and worker.

    Raises:
        ConfigError: it has no name that would mean the same elsewhere.
    """
    qualified = getattr(fn, "__qualname__", None)
    module = getattr(fn, "__module__", None)
    if not qualified or not module:
        raise ConfigError(f"{fn!r} has no name to be found by; give it one: @app.task(name='…')")
    if "<lambda>" in qualified:
        raise ConfigError(f"a lambda in {module} has no name to be found by; give it one: app.task(…, name='…')")
    if module == "__main__":
        module = main_module()
    return f"{module}.{qualified.replace('<locals>.', '')}"


def name_of_class(kind: type) -> str:
    """Return a class's name, `module.QualifiedName`, the same in producer and worker."""
    module = main_module() if kind.__module__ == "__main__" else kind.__module__
    return f"{module}.{kind.__qualname__}"


def main_module() -> str:
    """Return what a worker would import the running script as: the module of `python -m`, else the file's stem.

    What has no file, as an interactive session, is `__main__`.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    piped_in = file is not None and Path(file).name == "<stdin>"  # python - <script
    return Path(file).stem if file and not piped_in else "__main__"


def refuse_homeless(name: str) -> None:
    """Refuse the name of what is defined where no worker can import it.

    Raises:
        BadCall: `main_module` found no file for it.
    """
    if name.startswith("__main__."):
        raise BadCall(
            f"{name.removeprefix('__main__.')} is defined in an interactive session, where no worker can import it: "
            "put it into a module; nothing was queued"
        )


def same_source(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether both are the same lines of the same file: a module that was imported again."""
    return one is other or (place_of(one) == place_of(other) and getattr(one, "__code__", None) is not None)


def place_of(fn: Callable[..., Any]) -> str:
    """Say where a function is defined."""
    code = getattr(fn, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(fn)
