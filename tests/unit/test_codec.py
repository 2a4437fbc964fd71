"""Tasks and outcomes as bytes: the fixed places that scripts read, and the faults of what is stored."""

from __future__ import annotations

import hashlib

import msgpack
import pytest

from qworker import codec
from qworker.errors import DecodeError, TaskTooLarge
from qworker.lifecycle import OUTCOMES, How, State
from qworker.model import POOL_NEEDS, PRIORITIES, Envelope, Header, Line, Outcome, Progress, Told

HEADER = Header(
    "tasks.thumbnail",
    timeout_ms=None,
    grace_ms=0,
    retries=3,
    backoff_ms=10,
    jitter=False,
    retry_for=("builtins.OSError",),
    result_ttl_ms=0,
    delivery="at_most_once",
    max_crashes=1,
    extra={"traceparent": "00-ab"},
)
OUTCOME = Outcome(
    id="default:01JC2M6Q",
    state=State.TIMED_OUT,
    how=How.KILLED,
    run=2,
    attempt=3,
    claim="abcdefghijkl",
    digest=b"12345678",
    worker="box:1:ab12",
    ended_ms=1_790_000_000_000,
    ran_s=1.5,
    asked_after_s=1.0,
    took_s=0.5,
    still_running=True,
    reason="timeout 1.0 s",
    error=b"\x90",
)


def blob(**changes: object) -> bytes:
    parts = {
        "header": codec.pack_header(HEADER),
        "body": codec.pack_body((1,), {}),
        "line": Line("thread", "high"),
        "client": "abcdefghijk2",
        "sent_ms": 1_790_000_000_000,
    }
    return codec.pack_envelope(**(parts | changes))


def test_a_task_arrives_as_it_was_sent():
    envelope = codec.read_envelope(blob())

    assert envelope == Envelope(
        digest=codec.digest_of(blob()),
        line=Line("thread", "high"),
        client="abcdefghijk2",
        sent_ms=1_790_000_000_000,
        header=HEADER,
        body=codec.pack_body((1,), {}),
    )


def test_a_header_of_defaults_arrives_as_such_and_takes_little_room():
    header = codec.pack_header(Header("a.b"))

    assert codec.read_header(blob(header=header)) == Header("a.b")
    assert header == msgpack.packb([2, "a.b"])


def test_a_header_tells_what_is_no_default():
    assert codec.pack_header(Header("a.b", timeout_ms=None, retries=2)) == msgpack.packb([2, "a.b", 0, None, 2, 2])


def test_scripts_find_digest_line_and_client_at_their_places():
    stored = blob()
    header = codec.pack_header(HEADER)

    assert stored[:8] == hashlib.blake2b(header + codec.pack_body((1,), {}), digest_size=8).digest()
    assert stored[8:9] == b"g"
    assert stored[9:21] == b"abcdefghijk2"
    assert stored[21:29] == (1_790_000_000_000).to_bytes(8)
    assert stored[29:31] == len(header).to_bytes(2)
    assert stored[31:] == header + codec.pack_body((1,), {})


def test_each_line_has_its_own_letter_from_a_to_l():
    lines = [Line(pool, priority) for pool in POOL_NEEDS for priority in PRIORITIES]

    letters = [blob(line=line)[8:9] for line in lines]

    assert b"".join(letters) == b"abcdefghijkl"
    assert [codec.line_of(blob(line=line)) for line in lines] == lines


def test_the_digest_stands_for_header_and_body_only():
    assert codec.digest_of(blob(line=Line(), client=codec.NOBODY, sent_ms=0)) == codec.digest_of(blob())
    assert codec.digest_of(blob(body=codec.pack_body((2,), {}))) != codec.digest_of(blob())
    assert codec.digest_of(blob(header=codec.pack_header(Header("x.y")))) != codec.digest_of(blob())


def test_a_header_is_decoded_once_for_all_tasks_of_a_kind():
    first = codec.read_header(blob())

    assert codec.read_header(blob(body=codec.pack_body((2,), {}))) is first


def test_the_cache_of_headers_is_bounded():
    for number in range(3000):
        codec.read_header(blob(header=codec.pack_header(Header(f"tasks.t{number}"))))

    assert len(codec._headers) <= 1024


def test_what_was_read_from_a_header_cannot_be_changed_for_the_next_reader():
    with pytest.raises(TypeError):
        codec.read_header(blob()).extra["traceparent"] = "00-cd"  # type: ignore[index]


def test_options_beyond_64_kib_are_refused():
    with pytest.raises(
        TaskTooLarge, match=r"cannot encode the options of a task: 70,0.. bytes, and 65,535 is the limit"
    ):
        codec.pack_header(Header("a.b", extra={"baggage": "x" * 70_000}))


@pytest.mark.parametrize("length", [0, 1, 8, 29, 30, 31, 40])
def test_a_task_that_was_cut_short_is_a_decode_error(length):
    codec.read_header(blob())  # in the cache: a cut one must not find it

    with pytest.raises(DecodeError, match=r"^cannot decode "):
        codec.read_envelope(blob()[:length])


@pytest.mark.parametrize(
    "fields",
    [
        [1, "a.b", 1, 0, 0, 0, True, None, 0, "at_least_once", 3, {}],
        [2],
        [2, "a.b", 0],
        [2, 7],
        [2, "a.b", 10, 0],
        [2, "a.b", -1, 0],
        [2, "a.b", "timeout", 0],
        [2, "a.b", 0, -1],
        [2, "a.b", 4, 1],
        [2, "a.b", 5, [1]],
        [2, "a.b", 7, "exactly_once"],
        [2, "a.b", 7, []],
        [2, "a.b", 9, []],
        "header",
    ],
    ids=repr,
)
def test_a_header_of_another_shape_is_a_decode_error(fields):
    with pytest.raises(DecodeError, match=r"^cannot decode the header of a task: "):
        codec.read_header(blob(header=msgpack.packb(fields)))


def test_a_line_or_client_of_nonsense_is_a_decode_error():
    stored = blob()

    with pytest.raises(DecodeError, match=r"b'z' stands for no line"):
        codec.line_of(stored[:8] + b"z" + stored[9:])
    with pytest.raises(DecodeError, match=r"is no client id"):
        codec.client_of(stored[:9] + b"\xff" * 12 + stored[21:])


@pytest.mark.parametrize(
    "outcome",
    [
        OUTCOME,
        Outcome(id="q:1", state=State.SUCCEEDED, how=How.RETURNED, value=codec.pack_value(None)),
        Outcome(id="q:1", state=State.SUCCEEDED, how=How.RETURNED, tombstone=True),
        OUTCOME._replace(state=State.CANCELLED, how=How.NEVER_STARTED, claim="", error=None, still_running=False),
    ],
    ids=lambda outcome: outcome.state,
)
def test_an_outcome_arrives_as_it_was_recorded(outcome):
    assert codec.unpack_outcome(codec.pack_outcome(outcome)) == outcome


@pytest.mark.parametrize("size", [0, 10, 255, 256, codec.APART - 1, codec.APART, codec.MAX_BODY])
def test_a_success_is_packed_as_any_outcome_and_a_large_value_follows(size: int):
    value = b"v" * size
    outcome = Outcome("q:a", State.SUCCEEDED, How.RETURNED, 1, 2, "c" * 12, b"d" * 8, "w", 5, 0.5, value=value)

    packed = codec.pack_success("q:a", "c" * 12, b"d" * 8, 1, 2, "w", 5, 0.5, value)

    assert packed + (value if size >= codec.APART else b"") == codec.pack_outcome(outcome)


def test_every_outcome_and_every_way_to_it_can_be_recorded():
    for state in OUTCOMES:
        for how in How:
            outcome = OUTCOME._replace(state=state, how=how)
            assert codec.unpack_outcome(codec.pack_outcome(outcome)) == outcome


def test_scripts_find_digest_and_claim_of_an_outcome_at_their_places():
    for claim in ("abcdefghijkl", ""):
        value = codec.pack_outcome(OUTCOME._replace(claim=claim, reason="x" * 1000))

        assert value[0] & 0xF0 == 0x90
        assert value[1:3] == b"\xc4\x08"
        assert value[3:11] == b"12345678"
        assert value[11:12] == b"\xac"
        assert value[12:24] == (claim or "-" * 12).encode()


def test_a_message_to_a_client_holds_outcomes_and_ids_in_their_order():
    message = codec.pack_outcome(OUTCOME) + codec.pack_hint("default:big") + codec.pack_outcome(OUTCOME)

    assert codec.read_pushed(message) == [OUTCOME, "default:big", OUTCOME]
    assert codec.read_pushed(b"") == []


def test_what_running_tasks_told_is_pushed_beside_outcomes():
    told = Told("default:a", Progress(1, None, "first"), ("a line",))

    assert codec.unpack_told(codec.pack_told(told)) == told
    assert codec.read_pushed(codec.pack_told(told) + codec.pack_outcome(OUTCOME)) == [told, OUTCOME]


def test_what_a_later_version_tells_is_passed_over():
    later = msgpack.packb({"z": [1]})

    assert codec.unpack_told(later) is None
    assert codec.read_pushed(later + codec.pack_hint("default:big")) == ["default:big"]


@pytest.mark.parametrize(
    "fields",
    [[], {"p": 1}, {"p": [1, None, []]}, {"p": ["a", [1], []]}, {"p": ["a", ["x", None, ""], []]}, {"p": ["a"]}],
)
def test_bytes_that_no_task_told_are_a_decode_error(fields):
    with pytest.raises(DecodeError, match=r"^cannot decode what a task told"):
        codec.unpack_told(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        codec.pack_outcome(OUTCOME)[:-1],
        codec.pack_outcome(OUTCOME) + b"\x01",
        msgpack.packb([1] * 14),
        msgpack.packb([*msgpack.unpackb(codec.pack_outcome(OUTCOME)), 1]),
        codec.pack_outcome(OUTCOME).replace(b"1Tk", b"2Tk"),
        codec.pack_outcome(OUTCOME).replace(b"1Tk", b"1Qk"),
    ],
    ids=["nothing", "reserved", "cut", "trailing", "ints", "a field more", "version", "state"],
)
def test_bytes_that_are_no_outcome_are_a_decode_error(data):
    with pytest.raises(DecodeError, match=r"^cannot decode "):
        codec.unpack_outcome(data)


@pytest.mark.parametrize(
    "data",
    [b"\xc1", codec.pack_outcome(OUTCOME)[:-1], b"\x01", msgpack.packb(msgpack.ExtType(1, b"\x90"))],
    ids=["reserved", "cut", "int", "extension"],
)
def test_a_message_that_holds_anything_else_is_a_decode_error(data):
    with pytest.raises(DecodeError, match=r"^cannot decode "):
        codec.read_pushed(codec.pack_outcome(OUTCOME) + data)
