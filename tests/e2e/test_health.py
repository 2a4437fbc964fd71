"""`qworker check` asks a real worker's file: whether it is well is said without the server, and is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qworker.health import LIVE_WITHIN_S
from support.waiting import wait_until

HEALTHY, UNHEALTHY = 0, 3


def checked(pid: int, runtime: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """Ask after one worker, as a probe of its host does: what the exit code is, and what is said of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")}
    done = subprocess.run(
        [sys.executable, "-m", "qworker", "check", *flags, "--pid", str(pid), "--json"],
        capture_output=True, timeout=30, check=False, env={**environment, "XDG_RUNTIME_DIR": str(runtime)},
    )  # fmt: skip
    assert not done.stderr, done.stderr
    (told,) = json.loads(done.stdout)["workers"]
    return done.returncode, told


@pytest.mark.slow
def test_a_frozen_worker_is_not_live_until_it_goes_on(start, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    worker = start("-c", "1", env={"XDG_RUNTIME_DIR": str(runtime)})
    code, told = wait_until(
        lambda: (found := checked(worker.pid, runtime, "--live"))[0] == HEALTHY and found, description="it to be live"
    )
    assert (code, told["live"]) == (HEALTHY, True)

    worker.freeze()
    frozen = time.monotonic()
    code, told = wait_until(
        lambda: (found := checked(worker.pid, runtime, "--live"))[0] == UNHEALTHY and found,
        timeout=LIVE_WITHIN_S + 10, description="it to be not live",
    )  # fmt: skip
    assert not told["live"]
    # What turned just before it was frozen is live for so long; the file is at most a second behind.
    assert time.monotonic() - frozen > LIVE_WITHIN_S - 2
    assert checked(worker.pid, runtime, "--ready")[0] == UNHEALTHY

    worker.thaw()

    code, told = wait_until(
        lambda: (found := checked(worker.pid, runtime, "--ready"))[0] == HEALTHY and found,
        description="it to be live and ready again",
    )
    assert (told["live"], told["ready"]) == (True, True)
