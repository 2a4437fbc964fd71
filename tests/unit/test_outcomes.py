"""What is settled for a verdict: the way back, or the outcome as it is stored and pushed."""

from __future__ import annotations

import pytest

from qworker import codec
from qworker.lifecycle import How, State
from qworker.model import Again, End, Ending, ErrorInfo, Lose, Record, Release
from qworker.worker.blame import RELEASE, SUCCESS, Verdict
from qworker.worker.ledger import Held, OpenClaim
from qworker.worker.outcomes import GIVEN_TOMBSTONE_MS, TOMBSTONE_MS, error_line, settle_of, ttl_of
from support.roles import blob, task

GENERATED_ID = "01JC0000000000000000000000"
CLAIM = "abcdefghijkl"


def held(local: str = GENERATED_ID, *, record: Record | None = None, content: bytes | None = None, **options) -> Held:
    claimed = task(local, record=record, content=content, **options)
    header = codec.read_header(claimed.blob) if content is None else codec.Header("?")  # type: ignore[attr-defined]
    return Held(1, claimed, OpenClaim(CLAIM, "default", 1, 0.0), header, "process", f"default:{local}")


def end_of(held: Held, verdict: Verdict, ending: Ending | None = None) -> End:
    settle = settle_of(held, verdict, ending, worker="box:1:abcd", ended_ms=1_234)
    assert isinstance(settle, End)
    return settle


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (RELEASE, Release("a", CLAIM)),
        (Verdict(back="again", delay_ms=70), Again("a", CLAIM, 70)),
        (Verdict(back="again", how=How.RAISED), Again("a", CLAIM, 0)),
        (Verdict(back="lose", exact=True), Lose("a", CLAIM, True)),
    ],
)
def test_a_way_back_carries_what_redis_needs_and_no_outcome(verdict, expected) -> None:
    assert settle_of(held("a"), verdict, None, worker="w", ended_ms=0) == expected


def test_a_success_tells_everything_that_is_known_of_it() -> None:
    ending = Ending(1, "returned", payload=codec.pack_value(7), ran_s=0.5, asked_after_s=0.4, took_s=0.1)

    end = end_of(held(record=Record(run=2, attempt=3, deliveries=1), client="c" * 12), SUCCESS, ending)

    outcome = codec.unpack_outcome(end.value)
    assert (outcome.id, outcome.state, outcome.how) == (f"default:{GENERATED_ID}", State.SUCCEEDED, How.RETURNED)
    assert (outcome.run, outcome.attempt, outcome.claim, outcome.worker) == (2, 3, CLAIM, "box:1:abcd")
    assert (outcome.ran_s, outcome.asked_after_s, outcome.took_s, outcome.ended_ms) == (0.5, 0.4, 0.1, 1_234)
    assert (outcome.value, outcome.error, outcome.tombstone) == (codec.pack_value(7), None, False)
    assert (end.client, end.hint) == ("c" * 12, b"")
    assert outcome.digest == codec.digest_of(blob(client="c" * 12))


@pytest.mark.parametrize("ttl_ms", [0, 60_000])
def test_a_success_that_was_not_asked_for_is_packed_as_any_outcome_is(ttl_ms) -> None:
    ending = Ending(1, "returned", payload=codec.pack_value(7), ran_s=0.5)
    of = held(record=Record(run=2, attempt=3), result_ttl_ms=ttl_ms)

    packed = end_of(of, SUCCESS, ending).value

    assert codec.pack_outcome(codec.unpack_outcome(packed)) == packed
    assert packed == end_of(of, Verdict(*SUCCESS), ending).value  # which is built from an Outcome


def test_a_failure_keeps_its_error_and_no_value() -> None:
    error = codec.pack_error(codec.describe_error(ValueError("no")))

    outcome = codec.unpack_outcome(
        end_of(held(), Verdict(State.FAILED, How.RAISED), Ending(1, "raised", payload=error)).value
    )

    assert (outcome.value, outcome.error) == (None, error)


def test_what_never_started_has_no_run_time_and_does_not_run() -> None:
    outcome = codec.unpack_outcome(end_of(held(), Verdict(State.CANCELLED, How.NEVER_STARTED, "stopped")).value)

    assert (outcome.ran_s, outcome.value, outcome.error, outcome.still_running) == (None, None, None, False)
    assert outcome.reason == "stopped"


def test_a_result_ttl_of_nothing_keeps_a_tombstone_without_the_value() -> None:
    end = end_of(held(result_ttl_ms=0), SUCCESS, Ending(1, "returned", payload=codec.pack_value(7)))

    outcome = codec.unpack_outcome(end.value)
    assert (outcome.value, outcome.tombstone) == (None, True)
    assert end.ttl_ms == TOMBSTONE_MS


def test_what_is_too_large_to_push_is_announced_by_its_id() -> None:
    end = end_of(held(), SUCCESS, Ending(1, "returned", payload=codec.pack_value("x" * codec.PUSH_MAX)))

    assert codec.read_pushed(end.hint) == [f"default:{GENERATED_ID}"]


def test_a_client_that_cannot_be_read_is_nobody() -> None:
    """The outcome that says so must not fail over the same bytes."""
    end = end_of(held(content=b"\0" * 8 + b"b"), Verdict(State.FAILED, How.NEVER_STARTED, "cannot be read"))

    assert end.client == codec.NOBODY


@pytest.mark.parametrize(
    ("local", "result_ttl_ms", "ttl_ms"),
    [
        (GENERATED_ID, 0, TOMBSTONE_MS),
        (GENERATED_ID, 90_000, 90_000),
        ("given", 90_000, GIVEN_TOMBSTONE_MS),
        ("given", GIVEN_TOMBSTONE_MS + 1, GIVEN_TOMBSTONE_MS + 1),
        (GENERATED_ID.lower(), 0, GIVEN_TOMBSTONE_MS),  # looks like one of ours, but a caller wrote it
    ],
)
def test_every_end_stays_long_enough_for_a_repeated_submit_to_find_it(local, result_ttl_ms, ttl_ms) -> None:
    assert ttl_of(held(local, result_ttl_ms=result_ttl_ms)) == ttl_ms


def test_an_error_is_told_in_one_line() -> None:
    info = ErrorInfo("builtins.ValueError", None, "no such file", "traceback")

    assert error_line(Ending(1, "raised", payload=codec.pack_error(info))) == "ValueError: no such file"


@pytest.mark.parametrize("ending", [None, Ending(1, "killed"), Ending(1, "returned", payload=b"\xc0")])
def test_what_raised_nothing_has_no_error_line(ending) -> None:
    assert error_line(ending) == ""
