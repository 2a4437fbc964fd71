"""Fault points as a user of them meets them: refused when misspelt, never armed unseen; and what they found."""

from __future__ import annotations

from e2e.conftest import BASIC
from support.daemon import spawn_worker


def test_a_misspelt_fault_point_is_a_wrong_setting(url, tmp_path) -> None:
    worker = spawn_worker(url, BASIC, log_dir=tmp_path, env={"QWORKER_FAULT": "claim.send:cut"})

    assert worker.wait() == 2
    (line,) = worker.log().splitlines()
    assert line.startswith("qworker start: QWORKER_FAULT: 'claim.send:cut': there is no fault point 'claim.send'; ")


def test_a_worker_with_fault_points_says_so_at_its_start_whatever_its_log_level(url, tmp_path) -> None:
    env = {"QWORKER_FAULT": "drain.end:exit0", "QWORKER_FAULT_TALLY": str(tmp_path / "tally")}
    worker = spawn_worker(url, BASIC, "--log-level", "error", log_dir=tmp_path, env=env)
    try:
        assert worker.wait_event("worker.fault_points")["armed"] == "drain.end:exit0:1"
    finally:
        worker.close()
