"""What the tasks of the demo write down, and what the demo reads."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from qworker.demo.notes import DIRECTORY, FILE, WORKER, Notes, note


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setenv(WORKER, "A")
    monkeypatch.setattr("qworker.demo.notes._files", {})
    return tmp_path


def test_a_note_says_who_and_where_and_when(directory: Path) -> None:
    notes = Notes(directory)
    before = time.monotonic()

    note("child", other=4711)

    (written,) = notes.read()
    assert (written.what, written.worker, written.other) == ("child", "A", 4711)
    assert (written.pid, written.thread) == (os.getpid(), threading.get_native_id())
    assert before <= written.at_s <= time.monotonic()


def test_what_was_read_is_not_read_again(directory: Path) -> None:
    notes = Notes(directory)
    note("start")
    first = notes.read()

    note("raise")
    second = notes.read()

    assert [written.what for written in first] == ["start"]
    assert [written.what for written in second] == ["raise"]
    assert [written.what for written in notes.all] == ["start", "raise"]
    assert notes.read() == []


def test_a_line_that_is_being_written_is_read_when_it_is_whole(directory: Path) -> None:
    notes = Notes(directory)
    line = b"1000000000 start default:x 2 B 7 8 0\n"
    (directory / FILE).write_bytes(line + line[:9])
    assert len(notes.read()) == 1

    (directory / FILE).write_bytes(line + line)

    (written,) = notes.read()
    assert (written.id, written.attempt, written.pid, written.at_s) == ("default:x", 2, 7, 1.0)
    assert len(notes.starts["default:x"]) == 2
