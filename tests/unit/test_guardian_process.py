"""How the guardian and those who ask for it name a process for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qworker.broker import guardian
from support.waiting import wait_until


def test_a_process_that_runs_is_named_by_its_start() -> None:
    assert guardian.start_time(os.getpid()) == guardian.start_time(os.getpid()) is not None


def test_one_that_has_ended_is_none_although_nobody_has_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    try:
        stat = Path(f"/proc/{child.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", description="the zombie")

        assert guardian.start_time(child.pid) is None
    finally:
        child.wait()
