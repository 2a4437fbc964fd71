"""Exceptions on the wire: names, encodable arguments and text; never a pickled object, never an import.

    task raises ── describe_error ──► ErrorInfo ── pack_error ──► bytes
    result()    ◄─ rebuild_error ───  ErrorInfo ◄─ unpack_error ── bytes

`describe_error` runs in the child, `rebuild_error` in the caller's `result()`. Whatever a task raises can be
described, and whatever arrives can be turned into an exception: what cannot be rebuilt is a `TaskFailed`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

from .binding import main_module, name_of_class
from .errors import DecodeError, QWorkerError, TaskFailed
from .model import ErrorInfo
from .values import pack_plain, pack_value, unpack_plain, unpack_value

__all__ = ["RemoteTraceback", "describe_error", "pack_error", "rebuild_error", "unpack_error"]

# An error must fit beside an outcome, whatever the exception holds; of what is longer, the beginning and end are kept.
_MAX_TRACEBACK = 64 * 1024
_MAX_TEXT = 16 * 1024
_MAX_ARGS = 64 * 1024
_MAX_ATTRIBUTES = 64 * 1024
_MAX_NOTE = 4 * 1024
_MAX_NOTES = 16
_MAX_BASES = 32
_MAX_NAME = 500
_VERSION = 1
# Raised in a generator or coroutine these would end it in silence, or become something else.
_UNFIT = (StopIteration, StopAsyncIteration)


class RemoteTraceback(Exception):
    """The traceback of a task's exception, as text: the `__cause__` of what `result()` raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


def describe_error(error: BaseException) -> ErrorInfo:
    """Return what can be said of an exception in plain values. Raises nothing, whatever the exception does."""
    kind = type(error)
    return ErrorInfo(
        kind=_name_of(kind),
        args=_args_of(error),
        text=_text_of(error),
        traceback=_traceback_of(error),
        notes=_notes_of(error),
        bases=tuple(_name_of(base) for base in kind.__mro__[1:-1][:_MAX_BASES]),
        attributes=_attributes_of(error),
    )


def pack_error(info: ErrorInfo) -> bytes:
    """Return an error as bytes."""
    args = None if info.args is None else pack_value([*info.args])
    fields = [_VERSION, info.kind, args, info.text, info.traceback, [*info.notes], [*info.bases]]
    return pack_plain([*fields, pack_value(dict(info.attributes))] if info.attributes else fields)


def unpack_error(data: bytes) -> ErrorInfo:
    """Return the error that `pack_error` made these bytes of.

    Raises:
        DecodeError: they are not what `pack_error` makes.
    """
    fields = unpack_plain(data)
    if type(fields) is not list or len(fields) not in (7, 8) or fields[0] != _VERSION:
        raise DecodeError("cannot decode an error: not an error of a version that is known here")
    _, kind, args, text, traceback, notes, bases, attributes = [*fields, None][:8]
    if not (
        all(type(field) is str for field in (kind, text, traceback))
        and all(type(field) is list and all(type(item) is str for item in field) for field in (notes, bases))
        and all(field is None or type(field) is bytes for field in (args, attributes))
    ):
        raise DecodeError("cannot decode an error: a field is of the wrong type")
    return ErrorInfo(
        kind, _unpack_args(args), text, traceback, tuple(notes), tuple(bases), _unpack_attributes(attributes)
    )


def rebuild_error(info: ErrorInfo, *, id: str | None = None) -> Exception:  # noqa: A002 - the public word
    """Return an exception to raise for a task's error, with the remote traceback as its cause.

    It is of the task's own class when that is a subclass of Exception which is builtin or whose module was already
    imported here, and when it can be made so that it reads the same; else a `TaskFailed` that names the class.
    Nothing is imported. Of its attributes those are carried that can be encoded, and of these what fits into 64 KiB.
    """
    error = _rebuild_own(info)
    if error is None:
        error = TaskFailed(f"{info.kind}: {info.text}" if info.text else info.kind, id=id, kind=info.kind)
    elif isinstance(error, QWorkerError) and getattr(error, "id", "") is None:
        error.id = id  # type: ignore[attr-defined]
    for note in info.notes:
        error.add_note(note)
    error.__cause__ = RemoteTraceback(info.traceback or f"{info.kind}: {info.text}")
    return error


# ── describing ───────────────────────────────────────────────────────────────────────────────────────────────────


def _name_of(kind: type) -> str:
    return _clip(name_of_class(kind), _MAX_NAME)


def _text_of(error: BaseException) -> str:
    try:
        return _clip(str(error), _MAX_TEXT)
    except Exception as fault:
        return f"<its __str__ raised {type(fault).__qualname__}>"


def _args_of(error: BaseException) -> tuple[Any, ...] | None:
    try:
        args = tuple(error.args)
        if isinstance(error, OSError) and len(args) == 2 and error.filename is not None:
            args += (error.filename,) if error.filename2 is None else (error.filename, None, error.filename2)
        return args if len(pack_value([*args])) <= _MAX_ARGS else None
    except Exception:
        return None


def _attributes_of(error: BaseException) -> dict[str, Any]:
    """Return those that can be encoded, in their order, each as long as there is room for it."""
    found: dict[str, Any] = {}
    left: float = _MAX_ATTRIBUTES
    try:
        for name, value in list(vars(error).items()):
            size = _size_of({name: value})
            if size <= left and _is_free(name):
                found[name] = value
                left -= size
    except Exception:
        return {}
    return found


def _size_of(value: object) -> float:
    try:
        return len(pack_value(value))
    except Exception:
        return float("inf")  # it cannot be carried


def _is_free(name: str) -> bool:
    """Say whether an attribute may have this name: none of the language's, and none of every exception's methods."""
    return not name.startswith("__") and not hasattr(BaseException, name)


def _notes_of(error: BaseException) -> tuple[str, ...]:
    try:
        notes = getattr(error, "__notes__", ())
        return tuple(_clip(str(note), _MAX_NOTE) for note in list(notes)[:_MAX_NOTES])
    except Exception:
        return ()


def _traceback_of(error: BaseException) -> str:
    import traceback  # not before the first error: it is a slow import for every child

    try:
        lines = traceback.format_exception(type(error), error, _users_frames(error.__traceback__))
    except Exception as fault:
        return f"<its traceback cannot be shown: {type(fault).__qualname__}>"
    return _clip("".join(lines), _MAX_TRACEBACK)


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """Skip the frames by which qworker called the task: they tell a user nothing."""
    first = frames
    while first is not None and str(first.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "qworker":
        first = first.tb_next
    return first if first is not None else frames


def _clip(text: str, limit: int) -> str:
    # Names of files may hold lone surrogates, which have no UTF-8 form.
    text = str(text).encode("utf-8", "backslashreplace").decode()
    if len(text) <= limit:
        return text
    cut = f"\n… {len(text) - limit:,} characters left out …\n"
    return text[: limit // 2] + cut + text[-limit // 2 :]


# ── rebuilding ───────────────────────────────────────────────────────────────────────────────────────────────────


def _unpack_args(data: bytes | None) -> tuple[Any, ...] | None:
    if data is None:
        return None
    args = unpack_value(data)
    if type(args) is not list:
        raise DecodeError("cannot decode an error: its arguments are not an array")
    return tuple(args)


def _unpack_attributes(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    attributes = unpack_value(data)
    if type(attributes) is not dict or not all(type(name) is str for name in attributes):
        raise DecodeError("cannot decode an error: its attributes are not a map of names")
    return attributes


def _rebuild_own(info: ErrorInfo) -> Exception | None:
    kind = _find_class(info.kind)
    if kind is None:
        return None
    args = (info.text,) if info.args is None else info.args
    # Called like the task did; or, when its __init__ makes the text of other arguments than it passes on, without it.
    makers: tuple[Callable[[], object], ...] = (lambda: kind(*args), lambda: kind.__new__(kind, *args))
    for make in makers:
        try:
            error = make()
            vars(error).update((name, value) for name, value in info.attributes.items() if _is_free(name))
            if isinstance(error, kind) and _clip(str(error), _MAX_TEXT) == info.text:
                return error
        except Exception:  # noqa: S112 - a constructor that cannot be called so: the next way, or a TaskFailed
            continue
    return None


def _find_class(name: str) -> type[Exception] | None:
    """Find an exception class by its full name among the modules that are imported already.

    What a worker imports under the name of its file may be the script that runs here: that comes first, for it is there
    that the error is caught.
    """
    parts = name.split(".")
    main = main_module()
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        for one in ("__main__", module) if module == main else (module,):
            found = _inner(sys.modules.get(one), parts[length:])
            if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, _UNFIT):
                return found if _name_of(found) == name else None
    return None


def _inner(found: object, parts: list[str]) -> object:
    # A module only: what else stands there is somebody's trick. And not getattr: a module's __getattr__ may import, and
    # a name from the wire must not make it.
    found = found if isinstance(found, ModuleType) else None
    for part in parts:
        found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
    return found
