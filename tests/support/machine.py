"""What some faults need of this machine: root, a tmpfs, a compiler; a test that cannot have it is skipped and says why.

with tmpfs(path, "8m"): …                a small disk, to be filled
clock = WrongClock(path)         processes with clock.environ have a clock that clock.set(3600) steps; and for them
                                 clock.suspend(3600) is what an hour of their host's sleep is
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import wait_until


def need_root(what: str) -> None:
    """Skip the test unless root runs it."""
    if os.geteuid() != 0:
        pytest.skip(f"{what} needs root")


def run(*command: str) -> str:
    """Run a command that has to succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@contextlib.contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    """A disk of this size, mounted at `path`, which is made."""
    need_root("a small disk (tmpfs)")
    path.mkdir(parents=True)
    try:
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield path
    finally:
        run("umount", "--lazy", str(path))


def fill(directory: Path) -> Path:
    """Write a file until the disk is full, and return it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def compiled(directory: Path, name: str, source: str) -> Path:
    """Make a library of this C source, to be put before a program's own with LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip(f"no C compiler, which {name}.so is made with (the system package gcc)")
    file, library = directory / f"{name}.c", directory / f"{name}.so"
    file.write_text(source)
    run(compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(file))
    return library


# libfaketime is not for this: it makes Python's sleeps fail, and a server with jemalloc hang at its start.
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long long none[2], *offset_s = none; // of the wall clock, of the boot clock

__attribute__((constructor)) static void find(void) {
  const char *path = getenv("WRONG_CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *found = fd < 0 ? MAP_FAILED : mmap(0, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
  if (found != MAP_FAILED) offset_s = found;
  if (fd >= 0) close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  int failed = syscall(SYS_clock_gettime, clock, at);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset_s;
  if (!failed && clock == CLOCK_BOOTTIME) at->tv_sec += offset_s[1];
  return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
  int failed = syscall(SYS_gettimeofday, at, zone);
  if (!failed) at->tv_sec += *offset_s;
  return failed;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""


class WrongClock:
    """Clocks that are wrong by so many seconds, for all processes that are started with `environ`."""

    def __init__(self, directory: Path) -> None:
        library, file = compiled(directory, "clock", _SHIM), directory / "clock.offset"
        file.write_bytes(bytes(16))
        with file.open("r+b") as open_file:
            self._offsets = mmap.mmap(open_file.fileno(), 16)
        self.environ = {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(file)}

    def set(self, seconds: int) -> None:
        """Step the wall clock to so much beside the true time, at once."""
        self._offsets[:8] = seconds.to_bytes(8, sys.byteorder, signed=True)

    def suspend(self, seconds: int) -> None:
        """Have the host slept for so long, with its wall clock set right since; freeze the processes meanwhile.

        Monotonic clocks stand still in a sleep, and go on here: keep it short.
        """
        self._offsets[:] = 2 * seconds.to_bytes(8, sys.byteorder, signed=True)


class Namespace:
    """Another host, as far as the network knows: a namespace with one link to here, which can be taken down.

    `here` is the address of this end; `prefix` begins the command line of what is to run there.
    """

    def __init__(self) -> None:
        need_root("a network namespace")
        number = os.getpid() % 60_000
        self.name, self._link = f"qw{number}", f"qwh{number}"
        net = f"10.{200 + number // 16_384}.{number // 64 % 256}.{number % 64 * 4}"
        base, _, last = net.rpartition(".")
        self.here, there = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
        try:
            run("ip", "netns", "add", self.name)
            run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "qw0", "netns", self.name)
            run("ip", "addr", "add", f"{self.here}/30", "dev", self._link)
            run("ip", "link", "set", self._link, "up")
            for command in (("addr", "add", f"{there}/30", "dev", "qw0"), ("link", "set", "qw0", "up")):
                run("ip", "-n", self.name, *command)
            run("ip", "-n", self.name, "link", "set", "lo", "up")
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            self.close()
            pytest.skip(f"no network namespace can be made here: {getattr(error, 'stderr', error)}")
        self.prefix = ("ip", "netns", "exec", self.name)

    def down(self) -> None:
        """Take the link down: what is sent is lost, and nobody is told."""
        run("ip", "-n", self.name, "link", "set", "qw0", "down")

    def up(self) -> None:
        run("ip", "-n", self.name, "link", "set", "qw0", "up")

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["ip", "netns", "del", self.name], capture_output=True, timeout=30)
            subprocess.run(["ip", "link", "del", self._link], capture_output=True, timeout=30)  # if it is left


@contextlib.contextmanager
def cgroup(controller: str) -> Iterator[Path]:
    """A control group of `pids` or `memory`, of whichever version is here; its limits are files in it.

    Processes are put into it by their pids in `cgroup.procs`; those left go back to the root's when it ends.
    """
    need_root("a control group")
    old, new = Path("/sys/fs/cgroup") / controller, Path("/sys/fs/cgroup")
    root = old if old.is_dir() else new
    if root is new:
        with contextlib.suppress(OSError):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        if controller not in _words(root / "cgroup.subtree_control"):
            pytest.skip(f"no control groups for {controller} here")
    group = root / f"qworker-test-{os.getpid()}-{controller}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        wait_until(lambda: _emptied(group, root), description="the control group to be empty")


def _emptied(group: Path, root: Path) -> bool:
    """Put what is in a group back, and remove it; False if something came or was dying meanwhile."""
    for pid in _words(group / "cgroup.procs"):
        with contextlib.suppress(OSError):
            (root / "cgroup.procs").write_text(pid)
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []
