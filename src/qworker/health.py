"""Is this host's worker alive, is it of use? Answered by a small file, without Redis.

    worker ── Aside ── Beacon.turned(), .succeeded() ──► <runtime dir>/qworker/health-<pid>.json ──► read() ── check

The file is rewritten at most once a second, by renaming, so a reader never sees half of one. Its times are those of
`clock`, which all processes of a host share.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import clock

__all__ = ["LIVE_WITHIN_S", "READY_WITHIN_S", "Aside", "Beacon", "Health", "path", "read", "read_all"]

LIVE_WITHIN_S = 10.0  # the loop turned
READY_WITHIN_S = 30.0  # a claim, renewal or settle succeeded; an idle worker claims each second
_EVERY_S = 1.0
_STALE_AFTER_S = 60.0  # a draft lives for as long as it takes to write it
_VERSION = 1


def _places() -> list[Path]:
    # A daemon and the shell that asks after it may differ in XDG_RUNTIME_DIR: the reader looks at both.
    base = os.environ.get("XDG_RUNTIME_DIR")
    fallback = Path(f"/tmp/qworker-{os.getuid()}")  # noqa: S108 - used only when it is private
    return [Path(base) / "qworker", fallback] if base else [fallback]


def _is_private(directory: Path) -> bool:
    """Say whether it is a directory of ours that nobody else may enter; in /tmp anybody may have made it first."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def path(pid: int) -> Path:
    """Return where the worker with this pid writes its health.

    Raises:
        OSError: there is no directory that only this user may enter.
    """
    places = _places()
    for directory in places:
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        if _is_private(directory):
            return directory / f"health-{pid}.json"
    raise PermissionError(f"no private directory among {', '.join(map(str, places))}: set XDG_RUNTIME_DIR to one")


@dataclass(frozen=True, slots=True)
class Health:
    """What a worker last wrote of itself. Ages are seconds at the time of reading; None: never."""

    worker: str
    pid: int
    turned_s_ago: float
    succeeded_s_ago: float | None
    exists: bool = True  # that very process is there

    @property
    def live(self) -> bool:
        """Whether its loop turned lately."""
        return self.exists and self.turned_s_ago <= LIVE_WITHIN_S

    @property
    def ready(self) -> bool:
        """Whether it is live and had an answer from the server lately."""
        return self.live and self.succeeded_s_ago is not None and self.succeeded_s_ago <= READY_WITHIN_S


class Beacon:
    """Writes the health of this process. Owned by one thread; nothing here raises, but a disk may take its time."""

    def __init__(self, worker_id: str, *, file: Path | None = None) -> None:
        self._worker, self._file = worker_id, file
        self._start = _start_time(os.getpid())
        self._succeeded: float | None = None
        self._written = -_EVERY_S

    def turned(self) -> None:
        """Say that the loop turned."""
        now = clock.now()
        if now - self._written >= _EVERY_S:
            self._written = now
            self._write(now)

    def succeeded(self) -> None:
        """Say that a claim, a renewal or a settle succeeded."""
        first = self._succeeded is None
        self._succeeded = clock.now()
        if first:
            self._written = -_EVERY_S  # whoever waits for a worker to be ready need not wait for the next second
        self.turned()

    def remove(self) -> None:
        """Remove the file: this worker ends in good order."""
        try:
            self._target().unlink(missing_ok=True)
        except OSError:
            pass  # it names a pid that will be gone, which reads as dead

    def _target(self) -> Path:
        if self._file is None:
            self._file = path(os.getpid())
            _sweep(self._file.parent)
        return self._file

    def _write(self, now: float) -> None:
        state = {
            "version": _VERSION,
            "worker": self._worker,
            "pid": os.getpid(),
            "start": self._start,
            "turned": now,
            "succeeded": self._succeeded,
        }
        try:
            target = self._target()
            draft = target.with_suffix(".new")
            draft.write_text(json.dumps(state))
            draft.replace(target)
        except OSError:
            pass  # disk full, directory gone: the check will call this worker unhealthy, the work goes on


class Aside:
    """A beacon that is written by a thread of its own, for a loop that must not wait for a disk.

    The rename may wait for the journal of a file system on which somebody else calls fsync (the server, for one): 0.1
    to 0.15 s were measured, in which no task would be asked to stop and no lease renewed.
    """

    def __init__(self, beacon: Beacon) -> None:
        self._beacon = beacon
        self._next = 0.0  # monotonic: when the thread is to be woken again
        self._answered = self._new_answer = False
        self._ended = False
        self._some = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qworker-health", daemon=True)
        self._thread.start()

    def turned(self) -> None:
        """Say that the loop turned."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY_S
            self._some.set()

    def succeeded(self) -> None:
        """Say that a claim, a renewal or a settle succeeded."""
        self._new_answer = True
        if not self._answered:
            self._answered, self._next = True, 0.0
        self.turned()

    def remove(self) -> None:
        """Remove the file: this worker ends in good order."""
        self._ended = True
        self._some.set()
        self._thread.join(1.0)
        self._beacon.remove()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            if self._ended:
                return
            if self._new_answer:
                self._new_answer = False
                self._beacon.succeeded()
            self._beacon.turned()


def read(file: Path) -> Health | None:
    """Return what a worker wrote; None when there is no such file, or it is not one of ours."""
    try:
        state = json.loads(file.read_text())
        pid, turned, succeeded = state["pid"], state["turned"], state["succeeded"]
        now = clock.now()
        return Health(
            worker=str(state["worker"]),
            pid=int(pid),
            turned_s_ago=max(0.0, now - float(turned)),
            succeeded_s_ago=None if succeeded is None else max(0.0, now - float(succeeded)),
            exists=_is_there(int(pid), state.get("start")),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def read_all() -> list[Health]:
    """Return the health of this user's workers on this host, by pid; what killed ones left behind is included."""
    files = (file for place in _places() if _is_private(place) for file in place.glob("health-*.json"))
    found = (read(file) for file in files)
    return sorted((health for health in found if health is not None), key=lambda health: health.pid)


def _sweep(directory: Path) -> None:
    """Remove what killed workers left behind, so that it does not pile up."""
    for file in directory.glob("health-*.json"):
        health = read(file)
        if health is None or not health.exists:
            try:
                file.unlink(missing_ok=True)
            except OSError:
                pass  # another worker that starts was faster
    for draft in directory.glob("health-*.new"):
        try:
            if time.time() - draft.stat().st_mtime > _STALE_AFTER_S:
                draft.unlink()
        except OSError:
            pass  # its worker has just renamed it


def _is_there(pid: int, start: object) -> bool:
    """Say whether the process that wrote this still is: its pid may belong to another one by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's process: there
    now = _start_time(pid)
    return now is None or start is None or now == start


def _start_time(pid: int) -> int | None:
    # Field 22 of /proc/<pid>/stat; the command's name before it may hold blanks and parentheses. None: not Linux.
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
