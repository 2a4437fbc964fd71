"""A power cut for a server: what it wrote and did not sync is gone, as if the kernel had never written it.

    disk = VolatileDisk(path)                  a server started with `env=disk.environ` notes what it syncs
    disk.hold()                                nothing is synced from here on: the disk takes its time
    disk.cut(server); server.start()           kill -9, and the files of its append-only log end where they were synced

kill -9 of a process alone loses nothing of what it wrote: the kernel has it. Here fdatasync and fsync note, for each
file, how long it was when they were called; a cut shortens the files to that. Only lengths are known, so this is for
files that are appended to, and what was renamed or removed stays so.
"""

from __future__ import annotations

from pathlib import Path

from support.machine import compiled
from support.servers import Server

_SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int synced(long call, int fd) {
  const char *path = getenv("SYNCED"), *held = getenv("SYNC_HELD");
  struct stat file;
  // Its length first: what is written while it is held, or while the disk works, is not known to be there.
  int known = path && held && !fstat(fd, &file) && S_ISREG(file.st_mode);
  while (known && !access(held, F_OK)) usleep(1000);
  int failed = syscall(call, fd);
  if (failed || !known) return failed;
  int notes = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (notes < 0) abort();
  dprintf(notes, "%lld %lld\n", (long long)file.st_ino, (long long)file.st_size);
  close(notes);
  return 0;
}

int fsync(int fd) { return synced(SYS_fsync, fd); }
int fdatasync(int fd) { return synced(SYS_fdatasync, fd); }
"""


class VolatileDisk:
    """What the servers that are started with `environ` have synced, and a way to lose the rest."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._synced, self._held = directory / "synced", directory / "held"
        self.environ = {
            "LD_PRELOAD": str(compiled(directory, "synced", _SHIM)),
            "SYNCED": str(self._synced),
            "SYNC_HELD": str(self._held),
        }

    def hold(self) -> None:
        """Let no sync return, nor count, until `release`."""
        self._held.touch()

    def release(self) -> None:
        self._held.unlink(missing_ok=True)

    def cut(self, server: Server) -> int:
        """Kill a server and take from its append-only log what was not synced. Returns how many bytes that was."""
        server.kill()
        self.release()
        lost = 0
        for file in (server.directory / "appendonlydir").glob("*.aof"):
            now, kept = file.stat(), self._lengths().get(file.stat().st_ino, 0)
            lost += max(0, now.st_size - kept)
            if kept < now.st_size:
                with file.open("r+b") as open_file:
                    open_file.truncate(kept)
        return lost

    def _lengths(self) -> dict[int, int]:
        """How long each file was when it was last synced, by its inode."""
        lines = self._synced.read_text().splitlines() if self._synced.exists() else []
        return {int(inode): int(size) for inode, size in (line.split() for line in lines)}
