"""The health file: cheap to write, never torn, and read without any server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from qworker import clock as boot
from qworker import health
from qworker.health import Aside, Beacon
from support.waiting import wait_until


@pytest.fixture
def clock(monkeypatch):
    """The boot clock, set by the test."""
    now = [1000.0]
    monkeypatch.setattr(boot, "now", lambda: now[0])
    return now


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "_places", lambda: [tmp_path / "qworker"])  # other workers may run on this host
    return tmp_path / "qworker"


def test_a_worker_whose_loop_turns_is_live_and_with_an_answer_it_is_ready(place, clock):
    beacon = Beacon("box:1:ab")
    beacon.turned()
    found = health.read(health.path(os.getpid()))
    assert (found.worker, found.pid, found.live, found.ready, found.succeeded_s_ago) == (
        "box:1:ab", os.getpid(), True, False, None,
    )  # fmt: skip

    beacon.succeeded()
    found = health.read(health.path(os.getpid()))
    assert (found.live, found.ready) == (True, True)


def test_a_loop_that_stopped_turning_is_not_live(place, clock):
    Beacon("w").succeeded()
    clock[0] += 10.0
    assert health.read(health.path(os.getpid())).live

    clock[0] += 0.1
    found = health.read(health.path(os.getpid()))

    assert (found.live, found.ready) == (False, False)


def test_without_an_answer_for_long_it_is_live_but_not_ready(place, clock):
    beacon = Beacon("w")
    beacon.succeeded()
    for _ in range(31):
        clock[0] += 1
        beacon.turned()

    found = health.read(health.path(os.getpid()))

    assert (found.live, found.ready, found.succeeded_s_ago) == (True, False, 31.0)


def test_the_file_is_written_at_most_once_a_second(place, clock, monkeypatch):
    writes = []
    monkeypatch.setattr(Beacon, "_write", lambda _self, now: writes.append(now))
    beacon = Beacon("w")

    for _ in range(40):
        beacon.turned()
        clock[0] += 0.25

    assert len(writes) == 10


def test_a_worker_that_is_gone_is_not_live(place, clock):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    Beacon("w").turned()
    file = health.path(os.getpid())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": int(gone.stdout)}))

    assert not health.read(file).live


def test_another_process_that_got_its_pid_is_not_taken_for_it(place, clock):
    Beacon("w").turned()
    file = health.path(os.getpid())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"start": 1}))

    assert not health.read(file).exists


def test_a_worker_that_starts_sweeps_away_what_killed_ones_left(place, clock):
    Beacon("mine").turned()
    (place / "health-1.json").write_text(
        json.dumps({"worker": "old", "pid": 1, "start": 0, "turned": 1, "succeeded": 1})
    )
    (place / "health-2.json").write_text("{")

    Beacon("next").turned()

    assert [file.name for file in place.iterdir()] == [f"health-{os.getpid()}.json"]


def test_a_worker_that_starts_sweeps_away_old_drafts_and_no_draft_that_is_being_written(place, clock):
    Beacon("mine").turned()
    for name, age_s in (("health-1.new", 3600), ("health-2.new", 0)):
        (place / name).write_text("{")
        os.utime(place / name, (time.time() - age_s,) * 2)

    Beacon("next").turned()

    assert {file.name for file in place.iterdir()} == {"health-2.new", f"health-{os.getpid()}.json"}


def test_a_worker_in_good_order_leaves_no_file(place):
    beacon = Beacon("w")
    beacon.turned()
    assert [found.worker for found in health.read_all()] == ["w"]

    beacon.remove()

    assert health.read_all() == []
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"pid": "x", "turned": 1, "succeeded": 1, "worker": "w"}', "7"]
)
def test_a_file_of_nonsense_reads_as_none(tmp_path, content):
    file = tmp_path / "health-1.json"
    file.write_text(content)

    assert health.read(file) is None
    assert health.read(tmp_path / "missing.json") is None


def test_a_full_disk_or_a_missing_directory_does_not_stop_the_worker(tmp_path):
    beacon = Beacon("w", file=tmp_path / "gone" / "health-1.json")

    beacon.turned()
    beacon.succeeded()
    beacon.remove()


def test_a_directory_that_others_may_enter_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "qworker").mkdir()
    (tmp_path / "qworker").chmod(0o777)
    monkeypatch.setattr(health, "_places", lambda: [tmp_path / "qworker"])

    with pytest.raises(PermissionError, match=r"no private directory among .*qworker: set XDG_RUNTIME_DIR to one"):
        health.path(1)
    assert health.read_all() == []


def test_the_runtime_directory_of_the_user_goes_before_tmp(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert health.path(7) == tmp_path / "qworker" / "health-7.json"

    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert [str(place) for place in health._places()] == [f"/tmp/qworker-{os.getuid()}"]


def test_reader_and_writer_may_differ_in_their_runtime_directory(place, monkeypatch, tmp_path):
    fallback = tmp_path / "fallback"
    monkeypatch.setattr(health, "_places", lambda: [fallback])
    Beacon("daemon").turned()
    monkeypatch.setattr(health, "_places", lambda: [place, fallback])

    assert [found.worker for found in health.read_all()] == ["daemon"]


class Slow:
    """A beacon whose disk takes as long as the test wants."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.go = threading.Event()

    def turned(self) -> None:
        self.go.wait(10)
        self.told.append("turned")

    def succeeded(self) -> None:
        self.go.wait(10)
        self.told.append("succeeded")

    def remove(self) -> None:
        self.told.append("removed")


def test_who_tells_waits_for_no_disk():
    slow = Slow()
    aside = Aside(slow)

    aside.turned()  # nothing is written yet, and this returned
    aside.succeeded()  # the first answer is written without waiting for the next second
    told_before = list(slow.told)
    slow.go.set()

    wait_until(lambda: "succeeded" in slow.told, description="the answer to be written")
    aside.remove()
    assert told_before == []
    assert slow.told[-1] == "removed"
