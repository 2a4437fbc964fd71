"""Start, stop and weigh processes: each leads a group of its own, and none is left behind.

Workers fork children that lead sessions of their own, so a signal to the group would miss some. The harness is
therefore the *subreaper* of all that it starts: whoever loses its parent becomes a child of the harness, where
`sweep` finds it. Should the harness itself be killed, the kernel ends what it started (Linux).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

STOP_WITHIN_S = 8.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_known: set[int] = set()  # the pids of all processes that were started here and not yet stopped


class Process:
    """One process that runs until it is stopped. What it prints goes to a file."""

    def __init__(self, command: list[str], *, env: dict[str, str], cwd: Path, log: Path, pipes: bool = False) -> None:
        self.log = log
        pipe = subprocess.PIPE if pipes else None
        with log.open("ab") as stream:
            self.popen = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.pid = self.popen.pid
        _known.add(self.pid)

    @property
    def ended(self) -> bool:
        """Whether the process itself is gone."""
        return self.popen.poll() is not None

    def stop(self, within_s: float = STOP_WITHIN_S) -> None:
        """Ask it to end, wait for a while, and kill whatever is left of its tree."""
        tree = descendants(self.pid)
        if not self.ended:
            self.popen.terminate()
            try:
                self.popen.wait(within_s)
            except subprocess.TimeoutExpired:
                tree += descendants(self.pid)
                self.popen.kill()
                self.popen.wait()
        _signal(tree, signal.SIGKILL)
        self._forget()

    def kill(self) -> None:
        """End the whole tree at once, as the loss of its host would: nobody in it sees another one go."""
        if not self.ended:
            tree = [self.pid, *descendants(self.pid)]
            _signal(tree, signal.SIGSTOP)
            _signal(tree + descendants(self.pid), signal.SIGKILL)
            self.popen.wait()
        self._forget()

    def _forget(self) -> None:
        _known.discard(self.pid)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # an order was on its way when the process ended

    def said(self, lines: int = 12) -> str:
        """Return the end of what it printed, as it stands behind the reason of a failure."""
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return tail and f":\n{tail}"

    def tree(self) -> list[int]:
        """Return its pid and those of all that it started; orphans are taken to be its own, too."""
        lost = [pid for orphan in strays() for pid in (orphan, *descendants(orphan))]
        return [self.pid, *descendants(self.pid), *lost]


_libc = ctypes.CDLL(None)  # found before a fork: in the child nothing is to be imported


def become_subreaper() -> None:
    """Let orphans of what is started here become children of this process (Linux; elsewhere they get away)."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, however that does: for a child, before its program."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_all() -> None:
    """Kill whatever this process started, also what it was just about to take note of: the last thing that it does."""
    _known.clear()
    sweep()


def sweep(within_s: float = 5.0) -> None:
    """Kill and reap whatever outlived the processes that started it. For between two measurements."""
    ends = time.monotonic() + within_s
    while lost := strays():
        for pid in lost:
            _signal([pid, *descendants(pid)], signal.SIGKILL)
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass  # reaped by whoever waited for it
        if time.monotonic() > ends:
            raise RuntimeError(f"processes that cannot be ended: {lost}")
        time.sleep(0.01)


def strays() -> list[int]:
    """Return the children of this process that were not started here: orphans of what was."""
    return [pid for pid in children().get(os.getpid(), []) if pid not in _known]


def children() -> dict[int, list[int]]:
    """Return who is whose child, of all processes of this machine."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            found.setdefault(int(stat[1]), []).append(int(entry.name))
    return found


def descendants(pid: int) -> list[int]:
    """Return the pids of all that a process started, and of all that those started."""
    whose, found = children(), []
    queue = list(whose.get(pid, []))
    while queue:
        one = queue.pop()
        found.append(one)
        queue += whose.get(one, [])
    return found


def pss_mib(pids: list[int]) -> float:
    """Return the memory of processes, with what they share divided among those that share it."""
    return _mib(pids, "Pss:")


def private_mib(pids: list[int]) -> float:
    """Return the memory that is of these processes alone: it changes by nothing that other processes do."""
    return _mib(pids, "Private_Clean:", "Private_Dirty:", "Swap:")


def _mib(pids: list[int], *kinds: str) -> float:
    total_kib = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended after it was listed
        for line in lines:
            if line.startswith(kinds):
                total_kib += int(line.split()[1])
    return total_kib / 1024


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time, user and system, that processes have used so far."""
    stats = [stat for pid in pids if (stat := _stat(pid))]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / _TICKS_PER_S


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None when there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it ended by itself
