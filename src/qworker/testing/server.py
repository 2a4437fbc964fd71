"""A server for one test session: in memory, on a unix socket that only this user reaches, gone with the session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from ..broker import guardian
from ..broker.embedded import find_binary
from ..broker.places import to_url
from ..errors import QWorkerError

__all__ = ["PrivateServer"]

_READY_WITHIN_S = 20.0
_MEMORY_ONLY = ("--save", "", "--appendonly", "no", "--databases", "1")


class PrivateServer:
    """One server process. Made by the fixture `qworker_server`."""

    def __init__(self, directory: Path) -> None:
        # pytest's directories have long names, and the path of a socket may not.
        self._place = Path(tempfile.mkdtemp(prefix="qw-", dir="/tmp"))
        path = self._place / "s"
        self.url = to_url(str(path))
        said = directory / "server.log"
        command = [find_binary(), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", *_MEMORY_ONLY]
        with said.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--dir", str(directory)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=guardian.dies_with(os.getpid()),
            )  # fmt: skip
        ends = time.monotonic() + _READY_WITHIN_S
        while not guardian.is_up(guardian.ping(str(path))):
            if self._process.poll() is not None or time.monotonic() > ends:
                self.stop()
                found = said.read_text(errors="replace").strip().rpartition("\n")[2]
                raise QWorkerError(f"{command[0]} does not serve on {path}: {found or 'it said nothing'}")
            time.sleep(0.002)

    def flush(self) -> None:
        """Forget everything."""
        from ..broker.broker import Broker
        from ..broker.calls import command

        with Broker(self.url, role="test") as broker:
            broker.run(command("forget everything", "FLUSHALL", parse=bool))

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._place, ignore_errors=True)
