"""The small parts of the pool: pace, survivors, output."""

from __future__ import annotations

import logging
import os
import sys
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qworker.lifecycle import State
from qworker.model import Order
from qworker.pool import frames, output
from qworker.pool.outbox import Outbox
from qworker.pool.pace import AHEAD_S, Pace
from qworker.pool.survivors import Survivors


def test_a_name_that_was_never_seen_counts_as_long():
    assert Pace().expected_s("m.f") == AHEAD_S


def test_what_ran_is_expected_again_and_changes_slowly():
    pace = Pace()
    pace.learn("m.f", 0.001)
    first = pace.expected_s("m.f")

    pace.learn("m.f", 1.0)

    assert first == pytest.approx(0.001, abs=0.0001)
    assert 0.1 < pace.expected_s("m.f") < 0.5


def test_names_without_end_do_not_fill_memory():
    pace = Pace()

    for index in range(10_000):
        pace.learn(f"m.f{index}", 0.1)

    assert len(pace._expected) <= 4096


def an_order(number):
    return Order(number, f"q:{number}", b"", name="m.f")


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("timeout", State.TIMED_OUT), ("deadline", State.EXPIRED), ("stop", State.CANCELLED), ("drain", State.CLAIMED)],
)
def test_a_survivor_is_listed_with_the_outcome_that_was_told(reason, outcome):
    survivors = Survivors()
    survivors.add(an_order(4), child=77, slot=2, started=10.0, now=15.0, reason=reason)

    (listed,) = survivors.listed(18.0)

    assert (listed.id, listed.child, listed.slot, listed.outcome) == ("q:4", 77, 2, outcome)
    assert (listed.since_s, listed.ran_s) == (3.0, 8.0)
    assert survivors.remove(4) == an_order(4)
    assert survivors.remove(4) is None
    assert len(survivors) == 0


@pytest.fixture
def captured():
    """An Output on a pipe; `told()` gives the frames that it sent."""
    theirs, ours = os.pipe2(os.O_NONBLOCK)
    sent = output.Output(Outbox(ours))
    reader = frames.Frames()

    def told():
        found = []
        while data := frames.receive(theirs):
            found += reader.feed(data)
        return found

    yield sent, told
    os.close(ours)
    os.close(theirs)


def test_lines_are_sent_whole_and_the_rest_at_the_end(captured):
    sent, told = captured

    sent.write("stdout", "one\ntw")
    sent.write("stdout", "o\nthree")
    assert [frame[3] for frame in told()] == ["one", "two"]

    sent.finish(0)
    assert [frame[3] for frame in told()] == ["three"]


def test_a_line_without_end_is_cut_into_pieces(captured):
    sent, told = captured

    sent.write("stdout", "x" * 20_000)

    assert [len(frame[3]) for frame in told()] == [8192, 8192]


def test_text_that_has_no_utf8_form_is_told_all_the_same(captured):
    sent, told = captured

    sent.write("stderr", "bad \udcff name\n")

    assert [frame[3] for frame in told()] == ["bad \\udcff name"]


def test_bytes_written_to_the_buffer_are_text_like_any_other(captured):
    sent, told = captured

    output.Capture(sent, "stdout", None).buffer.write("gr\u00fcn\n".encode())

    assert [frame[3] for frame in told()] == ["gr\u00fcn"]


def test_writing_something_else_than_text_is_the_callers_fault():
    with pytest.raises(TypeError, match="write\\(\\) argument must be str, not bytes"):
        output.Capture(None, "stdout", None).write(b"bytes")


def test_a_forked_copy_writes_to_the_original_stream(captured, capsys):
    sent, told = captured
    capture = output.Capture(sent, "stdout", sys.stdout)

    capture.restored = True
    capture.write("to the terminal\n")

    assert told() == []
    assert capsys.readouterr().out == "to the terminal\n"


def test_a_record_that_cannot_be_formatted_does_not_reach_the_task(captured, monkeypatch):
    sent, told = captured
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = output.LogCapture(sent)

    handler.handle(logging.LogRecord("mine", logging.INFO, "f", 1, "%d and %d", ("one",), None))

    assert told() == []


def test_whatever_is_in_the_fields_of_a_record_its_line_is_told(captured):
    sent, told = captured
    handler = output.LogCapture(sent)
    record = logging.LogRecord("mine", logging.INFO, "f", 1, "found", (), None)
    record.fields = {"path": "caf\udce9", "size": 1 << 70, "share": 0.5, "caf\udce9": b"\xff"}

    handler.handle(record)

    (line,) = told()
    fields = {"path": "caf\\udce9", "size": str(1 << 70), "share": 0.5, "caf\\udce9": "b'\\xff'"}
    assert line[-2:] == ["found", {"level": "info", "logger": "mine", **fields}]


FIELD_NAMES = st.one_of(st.sampled_from(["level", "logger", "number"]), st.text(max_size=20))
FIELD_VALUES = st.one_of(
    st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers()), st.just("x" * 6_000_000)
)


@given(fields=st.dictionaries(FIELD_NAMES, FIELD_VALUES, max_size=8), line=st.text(max_size=100))
@example(fields={"level": 3}, line="joined")
@example(fields={"body": "x" * 6_000_000}, line="got it")
def test_whatever_a_task_logs_is_a_frame_that_its_worker_takes(fields, line):
    sent = []
    out = output.Output(SimpleNamespace(send=sent.append))
    record = logging.makeLogRecord(
        {"msg": "%s", "args": (line,), "levelname": "INFO", "name": "tasks", "fields": fields}
    )

    output.LogCapture(out).emit(record)

    for frame in frames.Frames().feed(b"".join(sent)):
        assert frames.checked(frame)[4]["level"] == "info"
    assert sum(map(len, sent)) < 64 * 1024
