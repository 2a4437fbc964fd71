"""Events as lines: how they read, that nothing in them rules a terminal, and that no stream can stop the work."""

from __future__ import annotations

import io
import json
import os
import select
import threading
import time

import pytest

from qworker import log
from support.waiting import wait_until

NOW = 1_790_000_000.0625


@pytest.fixture(autouse=True)
def _closed():
    yield
    log.close()
    log._threshold, log._render = 20, log.render_console


def lines_of(stream: io.StringIO) -> list[str]:
    log.close()
    return stream.getvalue().splitlines()


def test_a_console_line_has_time_level_event_and_fields(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    line = log.render_console(
        NOW, "info", "task.ended", {"task": "q:1", "outcome": "failed", "ran_s": 1.23456789, "x": None}
    )

    assert line == "2026-09-21 14:13:20.062 info    task.ended task=q:1 outcome=failed ran_s=1.234568\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.000078066, "0.000078"), (2.0, "2"), (1e20, "1e+20"), (float("nan"), "nan"), (-0.5, "-0.5"), (0.0, "0")],
)
def test_numbers_are_written_without_exponents_that_nobody_reads(value, shown):
    assert log.render_console(NOW, "info", "e", {"n": value}).endswith(f" e n={shown}\n")


def test_quotes_in_a_quoted_value_do_not_end_it():
    assert log.render_console(NOW, "info", "e", {"a": 'say "hi"'}).endswith(' e a="say \\"hi\\""\n')


def test_values_with_blanks_are_quoted_and_control_characters_escaped():
    line = log.render_console(NOW, "error", "e\x1b", {"a": "two words", "b": "", "c": "\x1b[31m\n\u202e", "d": "ü"})

    assert line.endswith(r'error   e\x1b a="two words" b="" c=\x1b[31m\n\u202e d=ü' + "\n")
    assert line.count("\n") == 1


BLOCK = log.Block('Thread 1:\n  File "a.py", line 2 in f\x1b\n\n')


def test_a_block_stands_below_its_event_on_a_console():
    line = log.render_console(NOW, "info", "child.stacks", {"child": 7, "stacks": BLOCK, "pool": "thread"})

    assert line.split("info", 1)[1] == (
        '    child.stacks child=7 pool=thread\n    Thread 1:\n      File "a.py", line 2 in f\\x1b\n'
    )
    assert log._render_coloured(NOW, "info", "e", {"stacks": BLOCK}).endswith("e\x1b[0m\n" + line.split("\n", 1)[1])


def test_a_block_does_not_break_the_one_line_of_json():
    line = log.render_json(NOW, "info", "child.stacks", {"stacks": BLOCK})

    assert line.count("\n") == 1
    assert json.loads(line)["stacks"] == BLOCK


def test_a_json_line_is_one_object_with_the_time_in_utc():
    line = log.render_json(
        NOW, "warning", "task.ended",
        {"task": "q:1", "ran_s": 0.5, "n": float("nan"), "time": "x", "o": {1}, "in": {b"k": [1, float("inf")], 7: {}}},
    )  # fmt: skip

    assert json.loads(line) == {
        "time": "2026-09-21T14:13:20.062Z",
        "level": "warning",
        "event": "task.ended",
        "task": "q:1",
        "ran_s": 0.5,
        "n": "nan",
        "field_time": "x",
        "o": "{1}",
        "in": {"b'k'": [1, "inf"], "7": {}},
    }
    assert line.count("\n") == 1
    assert line.isascii()


def test_events_are_written_in_their_order_and_below_the_level_not_at_all():
    stream = io.StringIO()
    log.setup("json", "warning", stream)

    log.event("a", level="error")
    log.event("b")
    log.event("c", level="warning", name="tasks.work")

    assert [json.loads(line)["event"] for line in lines_of(stream)] == ["a", "c"]
    assert "tasks.work" in stream.getvalue()


def test_colours_are_for_terminals_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    seen = []
    for stream in (Terminal(), io.StringIO()):
        log.setup(stream=stream)
        log.event("a", x=1)
        seen += lines_of(stream)
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    log.setup(stream=stream)
    log.event("a", x=1)
    seen += lines_of(stream)

    assert ["\x1b" in line for line in seen] == [True, False, False]


def test_a_field_that_cannot_be_shown_costs_its_line_only():
    class Rude:
        def __str__(self) -> str:
            raise ValueError

    stream = io.StringIO()
    log.setup(stream=stream)
    log.event("a", x=Rude())
    log.event("b")

    assert lines_of(stream)[0] == "a (its fields cannot be shown: ValueError)"
    assert "b" in lines_of(stream)[1]


def test_a_closed_stream_or_a_full_disk_raises_nothing():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for stream in (closed, Full()):
        log.setup(stream=stream)
        log.event("a")
        log.close()


def test_an_encoding_that_cannot_say_it_gets_it_escaped():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    log.setup(stream=stream)
    log.event("a", x="ü")
    log.close()

    assert raw.getvalue().endswith(b"a x=\\xfc\n")


def is_full(pipe: int) -> bool:
    return not select.select([], [pipe], [], 0)[1]


def test_a_stream_that_blocks_does_not_stop_the_caller():
    """A paused terminal or a log driver that blocks: the pipe is full and nobody reads."""
    reader, writer = os.pipe()
    stream = open(writer, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    log.setup("json", stream=stream)
    log.event("a", number=-1, text="x" * (1 << 20))  # more than a pipe holds
    wait_until(lambda: is_full(writer), description="the pipe to be full")
    before = time.monotonic()
    for number in range(12_000):
        log.event("a", number=number, text="x" * 50)
    took = time.monotonic() - before

    received: list[bytes] = []
    drain = threading.Thread(target=lambda: received.extend(iter(lambda: os.read(reader, 65536), b"")))
    drain.start()
    wait_until(lambda: b'"lines":' in b"".join(received), description="the count of dropped lines is written")
    log.close()
    stream.close()
    drain.join(10)
    os.close(reader)

    events = [json.loads(line) for line in b"".join(received).splitlines()]
    written = [event for event in events if event["event"] == "a"]
    assert took < 10
    assert [event["number"] for event in written] == sorted(event["number"] for event in written)
    assert [event["lines"] for event in events if event["event"] == "log.dropped"] == [2_000]
    assert len(written) == 1 + 10_000


def test_before_setup_events_go_to_stderr(capsys):
    log.event("early", x=1)

    assert capsys.readouterr().err.endswith("info    early x=1\n")


def test_without_a_stderr_nothing_is_raised(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)

    log.event("early")
