"""How things are closed from outside while somebody is blocked in them: the adapters of `current.guard`.

    closer_of(thing) ──► socket: shut down, closed     process: TERM to its group or itself, then KILL
                    ├──► HTTP session: the sockets in which its thread is blocked, then close()
                    ├──► DB-API connection: interrupt or cancel, again and again; else close()
                    └──► anything that can be called; anything with close() or aclose()

By what a thing can do, and by the name of its module: no library is imported here. To close a socket wakes nobody who
is blocked in it, to shut it down does: that is the difference between this and a plain `close()`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Final

__all__ = ["Closer", "closer_of"]

# From TERM to KILL.
_TERM_S: Final = 0.5
# Whose frames may lie between a session's call and the socket in which it is blocked.
_NETWORK: Final = frozenset(
    {"socket", "ssl", "http", "urllib3", "requests", "httpx", "httpcore", "h11", "h2", "contextlib", "codecs", "email"}
)
_SESSIONS: Final = {"requests": frozenset({"requests", "urllib3"}), "httpx": frozenset({"httpx", "httpcore"})}


@dataclass(frozen=True, slots=True)
class Closer:
    """How one thing is closed."""

    close: Callable[[], object]  # an awaitable that it returns is awaited, in a coroutine
    repeats: bool = False  # it ends only what goes on in that moment: ask again until the guard is left
    anywhere: bool = False  # from any thread, even when it belongs to a loop: it may block


def closer_of(thing: Any) -> Closer:
    """Return how to close a thing from another thread.

    Raises:
        TypeError: nobody knows.
    """
    if isinstance(thing, socket.socket):
        return Closer(partial(_close_socket, thing))
    if isinstance(getattr(thing, "pid", None), int) and _can(thing, "terminate") and _can(thing, "kill"):
        return Closer(partial(_end_process, thing), anywhere=True)
    family = _SESSIONS.get(type(thing).__module__.partition(".")[0])
    if family is not None and _can(thing, "close"):
        return Closer(partial(_close_session, thing, get_ident(), family))
    if _can(thing, "cursor"):
        for name in ("interrupt", "cancel_safe", "cancel"):
            if _can(thing, name):
                return Closer(getattr(thing, name), repeats=True)
    if callable(thing):  # not before: a connection of sqlite3 can be called
        return Closer(thing)
    for name in ("close", "aclose"):
        if _can(thing, name):
            return Closer(partial(_close, thing, name))
    raise TypeError(
        f"current.guard() does not know how to close something of type {type(thing).__qualname__}: it has no close(); "
        "give it a function that ends what the task waits for"
    )


def _can(thing: Any, name: str) -> bool:
    return callable(getattr(thing, name, None))


def _close_socket(sock: socket.socket) -> None:
    _wake(sock)
    sock.close()


def _wake(sock: socket.socket) -> None:
    with suppress(OSError):  # it was not connected, or is closed
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not that of a TLS socket, which would wait for its peer


def _close(thing: Any, name: str) -> object:
    for attribute in ("sock", "_sock"):  # of http.client, smtplib, ftplib, pymysql, …
        inner = getattr(thing, attribute, None)
        if isinstance(inner, socket.socket):
            _wake(inner)
    result: object = getattr(thing, name)()
    return result


def _close_session(session: Any, thread: int, family: frozenset[str]) -> None:
    """Wake the thread out of this session's sockets: a session does not know those that are in use, its calls do."""
    for sock in _blocked_in(sys._current_frames().get(thread), family):
        _wake(sock)
    session.close()


def _blocked_in(frame: FrameType | None, family: frozenset[str]) -> list[socket.socket]:
    """Return the sockets of the innermost calls, if these are calls of that family of libraries."""
    found: list[socket.socket] = []
    passed: set[str] = set()
    while frame is not None:
        root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if root not in _NETWORK:
            break
        passed.add(root)
        local = dict(frame.f_locals)
        found += [value for value in local.values() if isinstance(value, socket.socket)]
        inner = getattr(local.get("self"), "_sock", None)  # of socket.SocketIO, httpcore's SyncStream
        if isinstance(inner, socket.socket):
            found.append(inner)
        frame = frame.f_back
    return found if passed & family else []


def _end_process(process: Any) -> None:
    """TERM, half a second, KILL: for the group that it leads, or for itself."""
    group = _group_of(process.pid)
    for number, wait_s in ((signal.SIGTERM, _TERM_S), (signal.SIGKILL, 0.0)):
        if _is_gone(process, group):
            return
        with suppress(ProcessLookupError):
            if group is not None:
                os.killpg(group, number)
            elif number == signal.SIGTERM:
                process.terminate()
            else:
                process.kill()
        ends = time.monotonic() + wait_s
        while time.monotonic() < ends and not _is_gone(process, group):
            time.sleep(0.01)


def _group_of(pid: int) -> int | None:
    """Return the process group that it leads, unless it does not or is gone."""
    try:
        group = os.getpgid(pid)
    except ProcessLookupError:
        return None
    return group if group == pid and group != os.getpgrp() else None


def _is_gone(process: Any, group: int | None) -> bool:
    # First this: it reaps, and one that is dead and not reaped still counts as a member of its group.
    own = process.poll() if _can(process, "poll") else getattr(process, "returncode", None)
    if group is None:
        return own is not None or (_can(process, "is_alive") and not process.is_alive())
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
