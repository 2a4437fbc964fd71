"""What some faults need of this machine: root, a tmpfs, a library; a test that cannot have it is skipped and says why.

with tmpfs(path, "8m"): …                a small disk, to be filled
faketime() ─► the environment in which a process has a clock that a file sets
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
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


class Faketime:
    """A clock that is wrong by what a file says, for processes that are started with `environ`."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.set(0)
        self.environ = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
        }  # fmt: skip

    def set(self, seconds: float) -> None:
        """Step the clock to so much beside the true time."""
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{seconds:+g}s\n")
        aside.replace(self._file)  # never half of it


def faketime(directory: Path) -> Faketime:
    """A wrong clock, or a skipped test where libfaketime is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")) or sorted(
        Path("/usr/lib").glob("faketime/libfaketime.so.1")
    )
    if not found or shutil.which("faketime") is None:
        pytest.skip("libfaketime is not installed (the system package faketime)")
    return Faketime(found[0], directory / "faketime")


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
