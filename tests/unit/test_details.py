"""`qworker show` of what is stored, whatever it is: it may have been written by anybody."""

from __future__ import annotations

import pytest

from qworker import codec
from qworker.cli.details import facts_of, rows_of
from qworker.errors import BrokerUnavailable
from qworker.lifecycle import How, State
from qworker.model import Header, Line, Outcome, Record, StopOrder
from qworker.verdict import error_of
from qworker.views import Inspection


def nobody():
    return ()


def blob(body: bytes) -> bytes:
    return codec.pack_envelope(
        header=codec.pack_header(Header("tasks.work", timeout_ms=None, retry_for=("builtins.OSError",))),
        body=body, line=Line("thread", "high"), client=codec.NOBODY, sent_ms=0,
    )  # fmt: skip


def shown(found: Inspection, workers=nobody) -> dict[str, str]:
    return {name: text for name, text in rows_of(facts_of("q:1", found, workers)) if text}


@pytest.mark.parametrize("stored", [b"", b"junk", blob(b"\xc1")], ids=["empty", "junk", "body"])
def test_a_task_that_cannot_be_read_is_shown_as_such(stored):
    rows = shown(Inspection("1", State.QUEUED, record=Record(), blob=stored))

    assert rows["state"].startswith("queued")
    assert "cannot decode" in rows.get("arguments", "cannot decode")


def test_an_outcome_that_cannot_be_read_is_shown_as_such():
    rows = shown(Inspection("1", None, outcome=b"junk"))

    assert rows["state"].startswith("it has an outcome that is unreadable: cannot decode ")


def test_a_value_and_an_error_that_cannot_be_read_are_shown_as_such():
    ended = Outcome(id="q:1", state=State.SUCCEEDED, how=How.RETURNED, value=b"\xc1")
    assert "cannot decode 1 bytes" in shown(Inspection("1", None, outcome=codec.pack_outcome(ended)))["value"]

    failed = Outcome(id="q:1", state=State.FAILED, how=How.RAISED, error=b"\xc1")
    assert shown(Inspection("1", None, outcome=codec.pack_outcome(failed)))["error"].startswith(
        "unreadable: cannot dec"
    )


def test_long_arguments_are_cut_and_their_size_is_said():
    rows = shown(Inspection("1", State.QUEUED, record=Record(), blob=blob(codec.pack_body(("x" * 5000,), {}))))

    assert len(rows["arguments"]) < 2100
    assert rows["arguments"].endswith("… (5,006 bytes)")


def test_losses_stops_and_options_are_told():
    record = Record(state=State.RUNNING, losses=1, deliveries=2, attempt=2, started_ms=1000, stop=StopOrder())
    found = Inspection("1", State.RUNNING, record=record, blob=blob(codec.pack_body((), {})), worker="w:1", now_ms=3500)

    rows = shown(found)

    assert rows["handed out"] == "2 times, lost with a dead process 1 times"
    assert rows["runs for"] == "2.5 s"
    assert "timeout=none" in rows["options"]
    assert "retry_for=builtins.OSError" in rows["options"]
    assert facts_of("q:1", found, nobody)["stopping"] is True


def test_without_an_answer_about_workers_the_rest_is_shown():
    def silent():
        raise BrokerUnavailable("gone")

    rows = shown(Inspection("1", State.CLAIMED, record=Record(state=State.CLAIMED), worker="w:1"), silent)

    assert rows["worker"] == "w:1"


def test_a_value_that_was_not_kept_is_said():
    ended = Outcome(id="q:1", state=State.SUCCEEDED, how=How.RETURNED, tombstone=True)

    assert shown(Inspection("1", None, outcome=codec.pack_outcome(ended)))["value"] == "not kept (result_ttl=0)"


def test_how_long_force_waited_for_a_shield_is_told():
    ended = Outcome(id="q:1", state=State.CANCELLED, how=How.KILLED, took_s=3.0, shielded_s=2.5)

    found = Inspection("1", None, outcome=codec.pack_outcome(ended))

    assert shown(found)["shielded"] == "its end by force waited 2.5 s"
    assert facts_of("q:1", found, nobody)["shielded_s"] == 2.5
    assert "(force waited 2.5 s for its shield)" in str(error_of(ended, shown="task q:1"))
