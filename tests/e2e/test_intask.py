"""What a task can do about its own end, behind a real worker: what the caller, the receipt and `show` tell of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qworker import How, State, TaskTimedOut
from support.apps import intask_tasks
from support.waiting import wait_until

TARGET = "support.apps.intask_tasks:app"


@pytest.fixture
def tasks(url, monkeypatch):
    monkeypatch.setenv("QWORKER_URL", url)
    yield intask_tasks
    intask_tasks.app.close()


@pytest.fixture
def notes(tmp_path):
    return tmp_path / "notes"


def wait_in(notes: Path) -> None:
    wait_until(lambda: notes.exists() and "in" in notes.read_text(), description="the task to be in its block")


def test_a_stop_interrupts_what_never_looks_and_the_receipt_says_how(start, tasks, notes) -> None:
    start("-c", "1", target=TARGET)
    future = tasks.spin.options(interrupt=True).submit(str(notes))
    wait_in(notes)

    receipt = future.stop(wait=4)

    assert (receipt.outcome, receipt.how, receipt.still_running) == (State.CANCELLED, How.INTERRUPTED, False)
    assert receipt.note == "it was interrupted"
    assert receipt.took < 3


def test_a_timeout_interrupts_likewise(start, tasks, notes) -> None:
    start("-c", "1", target=TARGET)
    future = tasks.sleep.options(interrupt=True, timeout=0.3).submit(str(notes))

    with pytest.raises(TaskTimedOut, match="it was interrupted"):
        future.result(timeout=10)


def test_a_stop_without_grace_waits_for_a_shield_and_everybody_is_told(start, tasks, notes, url) -> None:
    start("-c", "1", target=TARGET)
    future = tasks.shielded.submit(str(notes), 10.0, 0.8)
    wait_in(notes)

    receipt = future.stop(wait=8, grace=0)

    assert (receipt.outcome, receipt.how) == (State.CANCELLED, How.NOTICED)
    assert notes.read_text().split() == ["in", "done"]
    assert future.outcome.shielded_s > 0.1
    shown = subprocess.run(
        [sys.executable, "-m", "qworker", "show", future.id, "--url", url, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(shown.stdout)["shielded_s"] == pytest.approx(future.outcome.shielded_s)


def test_a_third_signal_waits_for_no_shield(start, tasks, notes) -> None:
    worker = start("-c", "1", target=TARGET)
    tasks.shielded.submit(str(notes), 60.0, 60.0)
    wait_in(notes)

    worker.term()
    worker.wait_event("worker.draining")
    worker.term()
    worker.wait_event("worker.stopping")
    begun = time.monotonic()
    worker.term()

    assert worker.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 4


@pytest.mark.slow
def test_a_drain_takes_no_longer_for_a_shield(start, tasks, notes) -> None:
    worker = start("-c", "1", "--drain-timeout", "0", target=TARGET)
    future = tasks.shielded.options(grace=0.1).submit(str(notes), 60.0, 60.0)
    wait_in(notes)
    begun = time.monotonic()

    worker.term()
    worker.wait()

    assert 4 < time.monotonic() - begun < 8
    assert future.status().state is State.QUEUED
