"""A socket between client and server that loses answers, stays silent, or breaks, at a call that the test picks.

proxy = Proxy(server.socket_path, tmp)      # proxy.url; passes everything through
proxy.cut_answers(2, after=b"EVALSHA")      # the server gets the next two such commands; their answers are lost
proxy.hold()                                # accepts, forwards nothing; proxy.release()
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path


class Proxy:
    """Forwards one unix socket to another. Faults may be set from the test's thread at any time."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._directory = Path(tempfile.mkdtemp(prefix="qw-"))
        self.path = str(self._directory / "p")
        self.url = f"unix://{self.path}"
        self.commands = 0  # chunks forwarded to the server that matched the last `cut_answers`
        self._cuts = 0
        self._after = b""
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(32)
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_answers(self, count: int, *, after: bytes) -> None:
        """Break the connection instead of answering, for the next `count` commands that contain `after`."""
        with self._lock:
            self._cuts, self._after, self.commands = count, after, 0

    def hold(self) -> None:
        """Forward nothing more to the server; connections stay open."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def close(self) -> None:
        self.release()
        for link in [self._listener, *self._links]:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._links += [near, far]
                cut = threading.Event()
                threading.Thread(target=self._requests, args=(near, far, cut), daemon=True).start()
                threading.Thread(target=self._answers, args=(far, near, cut), daemon=True).start()

    def _requests(self, near: socket.socket, far: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 20):
                self._open.wait()
                with self._lock:
                    if self._after and self._after in data:
                        self.commands += 1
                        if self._cuts > 0:
                            self._cuts -= 1
                            cut.set()
                far.sendall(data)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR)

    def _answers(self, far: socket.socket, near: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := far.recv(1 << 20)) and not cut.is_set():
                near.sendall(data)
        for link in (near, far):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
