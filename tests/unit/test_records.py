"""The stored text of a record, and the value that it stands for."""

from __future__ import annotations

import pytest

from qworker.broker.records import read_record, write_record
from qworker.errors import DecodeError
from qworker.lifecycle import State
from qworker.model import Line, Record, StopOrder

FULL = Record(
    state=State.RUNNING, claim="abcdefghijkl", run=2, attempt=3, deliveries=4, losses=1, exact=True,
    started_ms=1_700_000_000_001, deadline_ms=1_700_000_000_002, stop=StopOrder(250), once=True,
)  # fmt: skip


@pytest.mark.parametrize("record", [Record(), FULL, Record(state=State.SCHEDULED, stop=StopOrder(None))])
def test_a_record_survives_being_written_and_read(record: Record) -> None:
    assert read_record(write_record(record, Line("thread", "high")).encode()) == record


def test_state_claim_line_and_stop_are_at_the_places_that_scripts_compare() -> None:
    text = write_record(FULL, Line("process", "normal"))

    assert (text[0], text[2:14], text[15], text[17]) == ("r", "abcdefghijkl", "e", "2")


def test_no_record_is_a_task_that_was_never_touched() -> None:
    assert read_record(None) == read_record(b"") == Record()


def test_the_last_claim_of_a_task_that_is_not_held_is_not_its_claim() -> None:
    assert read_record(b"q abcdefghijkl e - 1 1 0 0 0 0 0 0").claim == ""


@pytest.mark.parametrize("text", [b"x", b"\xff", b"q abcdefghijkl e - 1 1", b"z abcdefghijkl e - 1 1 0 0 0 0 0 0",
                                  b"q abcdefghijkl e - 1 one 0 0 0 0 0 0"])  # fmt: skip
def test_other_text_is_refused_with_what_was_found(text: bytes) -> None:
    with pytest.raises(DecodeError, match="cannot read the record of a task: b"):
        read_record(text)
