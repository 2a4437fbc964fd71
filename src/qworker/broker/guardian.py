"""The guardian: a small process that is the embedded server's parent, and stops it when nobody uses it any more.

    first user ── launch() ──► (intermediate, exits) ──► guardian ──► valkey-server / redis-server
                     ▲                                      │             dies with the guardian
                     └────────── "ready" or why not ────────┘

Run by file name in a bare interpreter (`python -I -S guardian.py …`), so it imports the standard library only and none
of qworker; `embedded.py` imports `launch`, `ping` and the file names from here. Three `flock`s in the state directory
decide everything, and no pid does:

    users.lock    every user holds it shared. The guardian tries it exclusively; once that has succeeded for the whole
                  grace period it keeps the lock, stops the server and exits. A user who comes in between waits.
    server.lock   held exclusively by whoever starts the guardian, then by the guardian and by the server, which inherit
                  the descriptor. Free means: neither is there, not even one that is still shutting down. So two
                  servers never write one append-only file, whoever was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "GUARDIAN_LOG",
    "READY",
    "SERVER_LOCK",
    "SERVER_LOG",
    "STATE_FILE",
    "USERS_LOCK",
    "is_up",
    "launch",
    "ping",
    "try_lock",
]

USERS_LOCK = "users.lock"
SERVER_LOCK = "server.lock"
GUARDIAN_LOCK = "guardian.lock"
STATE_FILE = "server.json"
SERVER_LOG = "server.log"
GUARDIAN_LOG = "guardian.log"
READY = "ready"

# Its disk is full, its memory is, or it became a replica.
REFUSES_WRITES = ("-MISCONF", "-OOM", "-READONLY")

PROBE_S = 1.0
STOP_WITHIN_S = 5.0
STALE_AFTER_S = 60.0
SOCKET_NAME = re.compile(r"[0-9a-f]{16}\.sock")  # as places.socket_path names it
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15

# Relative names, because the server runs in the state directory: no path of the user's has to survive its own quoting.
SETTINGS = (
    *("--port", "0", "--unixsocketperm", "700", "--daemonize", "no"),
    *("--dir", ".", "--logfile", SERVER_LOG, "--databases", "1"),
    *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
)


def ping(path: str, *, timeout_s: float = 1.0) -> str:
    """Send PING and return the answer's first line: `+PONG`, `-LOADING …`; '' when there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout_s)
            link.connect(path)
            link.sendall(b"PING\r\n")
            return link.recv(64).split(b"\r\n")[0].decode("ascii", "replace")
    except OSError:
        return ""


def is_up(answer: str) -> bool:
    """Whether a server that answers so to PING has its data loaded. One that refuses writes is there, to be read."""
    return answer == "+PONG" or answer.startswith(REFUSES_WRITES)


def try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take a `flock` if it is free at this moment."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def launch(state: Path, *, binary: str, socket_path: str, lock_fd: int, grace_s: float, timeout_s: float) -> str:
    """Start a guardian and its server on the state directory; return READY, or what went wrong.

    `lock_fd` is server.lock, held exclusively: the guardian and its server inherit it, and the caller closes its own
    copy. The guardian has a session of its own, is nobody's child, inherits nothing else and survives the caller.
    """
    if not sys.executable:
        return "this Python does not know its own executable (sys.executable is empty)"
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-I", "-S", __file__, str(state), binary, socket_path]
        with (state / GUARDIAN_LOG).open("wb") as log:
            intermediate = subprocess.Popen(
                [*command, str(lock_fd), str(writing), str(grace_s)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(lock_fd, writing),
                start_new_session=True,
            )
        os.close(writing)
        writing = -1
        intermediate.wait()
        if not select.select([reading], [], [], timeout_s)[0]:
            return f"it does not answer within {timeout_s:g} s; see {state / SERVER_LOG}"
        answer = os.read(reading, 4096).decode(errors="replace")
        return answer or f"its guardian ended without a word; see {state / GUARDIAN_LOG}"
    except OSError as error:
        return str(error)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


class Guardian:
    """The guardian's one loop: one thread, in a process of its own, with the state directory as working directory."""

    def __init__(
        self, state: Path, *, binary: str, socket_path: str, lock_fd: int, answer_fd: int, grace_s: float
    ) -> None:
        self.state = state
        self.binary = binary
        self.socket_path = socket_path
        self.lock_fd = lock_fd
        self.answer_fd = answer_fd
        self.grace_s = grace_s
        self.probe_s = min(PROBE_S, grace_s / 5)
        self.users_fd = os.open(USERS_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.guardian_fd = os.open(GUARDIAN_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.server: subprocess.Popen[bytes] | None = None
        self.asked_to_stop = False
        self._woken, self._waker = socket.socketpair()

    def run(self) -> int:
        self._catch_signals()
        fcntl.flock(self.guardian_fd, fcntl.LOCK_EX)  # at worst a user looks at it in this moment
        problem = self._start_server()
        # Before anybody is told: who knows of the socket may delete it, and it would never be missed.
        own_socket = inode(self.socket_path)
        self._answer(problem or READY)
        if problem:
            self._stop_server()
            return 1
        sweep(Path(self.socket_path).parent)
        reason, clean = self._watch(own_socket)
        say(f"stopping the server: {reason}")
        self._stop_server(clean=clean)
        return 0

    def _catch_signals(self) -> None:
        for side in (self._woken, self._waker):
            side.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that the server's death wakes the loop
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_term(self, _number: int, _frame: object) -> None:
        self.asked_to_stop = True

    def _start_server(self) -> str:
        """Start the server and wait until it answers; return '' or what went wrong."""
        # Whoever holds server.lock owns the socket's name: a file that is still there was left by a server killed -9.
        Path(self.socket_path).unlink(missing_ok=True)
        try:
            self.server = subprocess.Popen(
                [self.binary, *SETTINGS, "--unixsocket", self.socket_path],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,  # what it says before it has opened its own log
                pass_fds=(self.lock_fd,),
                preexec_fn=dies_with(os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"cannot run {self.binary}: {error}"
        try:
            self._write_state(self.server.pid)
        except OSError as error:
            return f"cannot keep its state in {self.state}: {error.strerror or error}"
        # However long it loads: the user who waits has a deadline of its own, and the next one will find it loading.
        while not is_up(ping(self.socket_path)):
            if self.server.poll() is not None:
                status = self.server.returncode
                said = last_line(GUARDIAN_LOG) or last_line(SERVER_LOG)
                return f"{self.binary} ended with status {status}: {said} (see {self.state / SERVER_LOG})"
            if self.asked_to_stop:
                return "asked to stop before the server was up"
            self._pause(0.005)
        return ""

    def _write_state(self, server_pid: int) -> None:
        """Tell the users where the server is. `root` is there because a copied project has a copied state file, too."""
        facts = {
            "root": str(self.state.parent),
            "guardian": os.getpid(),
            "guardian_start": start_time(os.getpid()),
            "server": server_pid,
            "server_start": start_time(server_pid),
            "binary": self.binary,
            "socket": self.socket_path,
            "started": int(time.time()),
        }
        draft = Path(STATE_FILE + ".new")
        draft.write_text(json.dumps(facts) + "\n")
        draft.replace(STATE_FILE)

    def _answer(self, text: str) -> None:
        if text != READY:
            say(text)
        # The user that waits for it may have been killed; the server is there for the next one all the same.
        with contextlib.suppress(OSError):
            os.write(self.answer_fd, text.encode()[:4096])
        os.close(self.answer_fd)

    def _watch(self, own_socket: tuple[int, int] | None) -> tuple[str, bool]:
        """Return, as soon as there is a reason to stop the server, that reason and whether to stop it cleanly."""
        assert self.server is not None
        idle_since: float | None = None
        seen_ns = 0
        while True:
            self._pause(self.probe_s)
            if self.server.poll() is not None:
                return f"it ended by itself, with status {self.server.returncode}", True
            if self.asked_to_stop:
                return "asked to", True
            users = os.fstat(self.users_fd)
            if users.st_nlink == 0:
                # Its data are gone, and a successor may have taken the socket's name already: a clean stop would
                # remove that name.
                return "its state directory was deleted", False
            if inode(str(self.state / USERS_LOCK)) != (users.st_dev, users.st_ino):
                return "its project was moved", True
            if own_socket is None or inode(self.socket_path) != own_socket:
                return "its socket was deleted", True
            if not try_lock(self.users_fd):
                idle_since = None
                continue
            # Nobody uses it now. Who came and went since the last look has left a mark: the file's time.
            if idle_since is None or users.st_mtime_ns != seen_ns:
                idle_since, seen_ns = time.monotonic(), users.st_mtime_ns
            if time.monotonic() - idle_since >= self.grace_s:
                return f"unused for {self.grace_s:g} s", True  # the lock is kept, to the end of this process
            fcntl.flock(self.users_fd, fcntl.LOCK_UN)

    def _pause(self, seconds: float) -> None:
        if select.select([self._woken], [], [], seconds)[0]:
            self._woken.recv(4096)

    def _stop_server(self, *, clean: bool = True) -> None:
        fcntl.flock(self.guardian_fd, fcntl.LOCK_UN)
        if self.server is None or self.server.poll() is not None:
            return
        try:
            if clean:
                self.server.terminate()  # it syncs its append-only file and removes its socket
                self.server.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            say(f"the server (pid {self.server.pid}) is deaf to TERM: killing it")
        finally:
            self.server.kill()
            self.server.wait()


def sweep(directory: Path) -> None:
    """Remove the sockets of this user's embedded servers that nobody listens on: those servers were killed -9."""
    for path in directory.glob("*.sock"):
        try:
            found = path.lstat()
            ours = SOCKET_NAME.fullmatch(path.name) and stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid()
            # One that was bound a moment ago is not listened on yet, and refuses, too.
            if not ours or time.time() - found.st_mtime < STALE_AFTER_S or not is_refused(str(path)):
                continue
            if inode(str(path)) == (found.st_dev, found.st_ino):  # its project may just have started a server anew
                path.unlink()
        except OSError:
            continue  # another guardian was faster


def is_refused(path: str) -> bool:
    """Whether nobody listens on a socket. A frozen server still listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(0.1)
        try:
            link.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def dies_with(parent: int) -> Callable[[], None] | None:
    """Return what a child calls before exec to get a TERM when this process ends, however it ends (Linux only).

    TERM and not KILL: the server closes its append-only file in order, and holds server.lock until it has.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before the line above took effect
            os._exit(1)

    return arrange


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid, it names a process for good (Linux only).

    None of one that has ended, though nobody has read its status yet: its pid is there as long as that takes.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def inode(path: str) -> tuple[int, int] | None:
    """What makes a file that very file, or None when there is none."""
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - a string, as the socket's name is
    except OSError:
        return None
    return found.st_dev, found.st_ino


def last_line(name: str) -> str:
    """The last line that somebody wrote into a log."""
    try:
        lines = Path(name).read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def say(text: str) -> None:
    """Write a line into the guardian's log, which is its standard error."""
    with contextlib.suppress(OSError):  # a full disk must not end the guardian, and with it the server
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} guardian {os.getpid()}: {text}\n")
        sys.stderr.flush()


def main(arguments: list[str]) -> int:
    state, binary, socket_path, lock_fd, answer_fd, grace_s = arguments
    if os.fork():
        # The user waits for this process only. The guardian is then no child of it: no zombie when it ends, and, not
        # leading its session, it can never get a terminal.
        os._exit(0)
    os.umask(0o077)  # the append-only file holds what tasks were called with
    os.chdir(state)
    os.set_inheritable(int(answer_fd), False)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"qworker-guard")
    guardian = Guardian(
        Path(state),
        binary=binary,
        socket_path=socket_path,
        lock_fd=int(lock_fd),
        answer_fd=int(answer_fd),
        grace_s=float(grace_s),
    )
    return guardian.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
