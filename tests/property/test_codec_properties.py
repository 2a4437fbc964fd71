"""Whatever can be sent arrives as it was; whatever arrives raises nothing but DecodeError."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qworker import codec
from qworker.errors import DecodeError
from qworker.lifecycle import OUTCOMES, How
from qworker.model import POOL_NEEDS, PRIORITIES, Header, Line, Outcome, Progress, Sighting, Told

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ZONES = st.one_of(
    st.just(UTC),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]).map(ZoneInfo),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    TEXT,
    st.binary(max_size=30),
    st.datetimes(timezones=ZONES, allow_imaginary=True),
    st.dates(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
    ),
    max_leaves=20,
)


def shape(value: object) -> object:
    """A form in which equal means the same types all the way down, too."""
    if isinstance(value, (list, tuple)):
        return type(value), [shape(item) for item in value]
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(shape(item)) for item in value)
    if hasattr(value, "utcoffset") and hasattr(value, "fold"):
        return type(value), value.replace(tzinfo=None), value.fold, value.utcoffset(), str(value.tzinfo)
    return type(value), repr(value)


@given(VALUES)
def test_every_value_arrives_as_it_was_types_included(value):
    assert shape(codec.unpack_value(codec.pack_value(value))) == shape(value)


@given(st.lists(VALUES, max_size=3), st.dictionaries(TEXT, VALUES, max_size=3))
def test_every_call_arrives_with_its_arguments(args, kwargs):
    body = codec.pack_body(args, kwargs)

    assert shape(codec.unpack_body(body)) == shape((tuple(args), kwargs))


HEADERS = st.builds(
    Header,
    name=TEXT,
    timeout_ms=st.none() | st.integers(0, 2**53),
    grace_ms=st.integers(0, 2**53),
    retries=st.integers(0, 2**31),
    backoff_ms=st.integers(0, 2**53),
    jitter=st.booleans(),
    retry_for=st.none() | st.lists(TEXT, max_size=3).map(tuple),
    result_ttl_ms=st.integers(0, 2**53),
    delivery=st.sampled_from(["at_least_once", "at_most_once"]),
    max_crashes=st.integers(0, 100),
    extra=st.dictionaries(TEXT, TEXT | st.integers(0, 2**53), max_size=3),
)
CLIENTS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=12, max_size=12)


@given(HEADERS, st.binary(max_size=40), st.sampled_from(POOL_NEEDS), st.sampled_from(PRIORITIES), CLIENTS)
def test_every_task_arrives_as_it_was_sent(header, body, pool, priority, client):
    packed, line = codec.pack_header(header), Line(pool, priority)

    envelope = codec.read_envelope(codec.pack_envelope(header=packed, body=body, line=line, client=client, sent_ms=7))

    assert (envelope.header, envelope.body, envelope.line, envelope.client, envelope.sent_ms) == (
        header, body, line, client, 7,
    )  # fmt: skip


SECONDS = st.none() | st.floats(0, 1e9)
SIGHTINGS = st.builds(
    Sighting,
    why=TEXT,
    ran_s=st.floats(0, 1e9),
    stack=TEXT,
    progress=st.none() | st.tuples(st.floats(0, 1e9), SECONDS, TEXT),
    lines=st.lists(TEXT, max_size=3).map(tuple),
)
OUTCOMES_OF_ANY_KIND = st.builds(
    Outcome,
    id=TEXT,
    state=st.sampled_from(sorted(OUTCOMES)),
    how=st.sampled_from(How),
    run=st.integers(1, 2**31),
    attempt=st.integers(1, 2**31),
    claim=st.just("") | CLIENTS,
    digest=st.binary(min_size=8, max_size=8),
    worker=TEXT,
    ended_ms=st.integers(0, 2**53),
    ran_s=SECONDS,
    asked_after_s=SECONDS,
    took_s=SECONDS,
    still_running=st.booleans(),
    reason=TEXT,
    value=st.none(),
    error=st.none(),
    tombstone=st.booleans(),
    shielded_s=SECONDS,
    flight=st.lists(SIGHTINGS, max_size=2).map(tuple),
).flatmap(
    lambda outcome: st.binary(max_size=20).flatmap(
        lambda data: st.sampled_from(
            [outcome, _with(outcome, value=data), _with(outcome, error=data)],
        )
    )
)


def _with(outcome: Outcome, **changes: bytes) -> Outcome:
    return outcome._replace(**changes)


TOLD = st.builds(
    Told,
    id=TEXT,
    progress=st.none() | st.builds(Progress, done=st.floats(0, 1e9), total=SECONDS, text=TEXT),
    lines=st.lists(TEXT, max_size=3).map(tuple),
)


def packed_entry(entry: Outcome | Told | str) -> bytes:
    if isinstance(entry, str):
        return codec.pack_hint(entry)
    return codec.pack_told(entry) if isinstance(entry, Told) else codec.pack_outcome(entry)


@given(st.lists(OUTCOMES_OF_ANY_KIND | TEXT | TOLD, max_size=4))
def test_every_message_to_a_client_arrives_as_it_was_sent(entries):
    message = b"".join(map(packed_entry, entries))

    assert codec.read_pushed(message) == entries
    for entry in entries:
        if isinstance(entry, Outcome):
            assert codec.unpack_outcome(codec.pack_outcome(entry)) == entry


# Bytes that look like msgpack, with our extensions, and then some that do not.
ALMOST = st.recursive(
    st.one_of(
        st.binary(max_size=12),
        st.builds(
            lambda code, data: msgpack.packb(msgpack.ExtType(code, data)), st.integers(0, 12), st.binary(max_size=12)
        ),
        st.sampled_from(
            [b"\x90", b"\x80", b"\xc0", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xd4\xff\x00", b"\xa2\xff\xfe"]
        ),
        st.integers(-(2**40), 2**40).map(msgpack.packb),
        TEXT.map(msgpack.packb),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: bytes([0x90 | len(parts)]) + b"".join(parts)),
        st.lists(inner, max_size=3).map(lambda parts: bytes([0x80 | len(parts)]) + b"".join(parts)),
        st.builds(lambda code, data: msgpack.packb(msgpack.ExtType(code, data)), st.integers(1, 8), inner),
    ),
    max_leaves=12,
)
READERS = (
    codec.unpack_value,
    codec.unpack_body,
    codec.unpack_outcome,
    codec.unpack_error,
    codec.unpack_told,
    codec.read_pushed,
    codec.read_header,
    codec.read_envelope,
    codec.line_of,
    codec.client_of,
    codec.sent_ms_of,
    codec.body_of,
    codec.digest_of,
)


def read_all(data: bytes) -> None:
    for read in READERS:
        try:
            read(data)
        except DecodeError as error:
            assert str(error).startswith("cannot decode ")  # noqa: PT017 - most of these bytes raise nothing


@settings(max_examples=400)
@given(st.binary(max_size=200) | ALMOST)
def test_arbitrary_bytes_raise_nothing_but_decode_error(data):
    read_all(data)


@given(VALUES, st.data())
def test_a_value_with_a_byte_changed_raises_nothing_but_decode_error(value, data):
    packed = bytearray(codec.pack_value(value))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))

    read_all(bytes(packed))


@given(HEADERS, st.data())
def test_a_task_with_a_byte_changed_raises_nothing_but_decode_error(header, data):
    blob = bytearray(
        codec.pack_envelope(
            header=codec.pack_header(header),
            body=codec.pack_body((1,), {}),
            line=Line(),
            client=codec.NOBODY,
            sent_ms=1,
        )
    )
    blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))

    read_all(bytes(blob[: data.draw(st.integers(0, len(blob)))]))
    read_all(bytes(blob))


@given(OUTCOMES_OF_ANY_KIND, st.data())
def test_an_outcome_with_a_byte_changed_raises_nothing_but_decode_error(outcome, data):
    packed = bytearray(codec.pack_outcome(outcome))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))

    read_all(bytes(packed))


OUTCOME = [b"8 bytes.", "-" * 12, "q:1", "1Fr", 1, 1, "w", 1, None, None, None, 0, "", None]
DEEP = b"\x91" * 1000 + b"\xc0"  # as deep as msgpack reads, and deeper than Python shows


@pytest.mark.parametrize(
    "flight",
    [
        msgpack.packb([None, [["asked", 1.0, "", {}, []]]]),  # progress that is a map: `progress[0]` is a KeyError
        b"\x92\xc0\x91\x95" + DEEP + msgpack.packb(1.0) + b"\xa0\xc0\x90",
        b"\x92\xc0\x91\x95\xa0" + msgpack.packb(1.0) + b"\xa0\xc0\x91" + DEEP,
    ],
)
def test_what_was_seen_of_an_outcome_and_is_nonsense_is_a_decode_error(flight):
    with pytest.raises(DecodeError, match="cannot decode an outcome"):
        codec.unpack_outcome(b"\x9f" + msgpack.packb(OUTCOME)[1:] + flight)


def test_progress_that_is_nested_without_end_is_a_decode_error():
    with pytest.raises(DecodeError, match="what a task told: RecursionError"):
        codec.unpack_told(b"\x81\xa1p\x93\xa1i\xc0\x91" + DEEP)


@given(
    st.text() | st.sampled_from(["builtins.OSError", "builtins.UnicodeDecodeError", "json.decoder.JSONDecodeError"]),
    st.dictionaries(st.text() | st.sampled_from(dir(OSError)), st.none() | st.integers() | st.text(), max_size=4),
)
def test_any_name_of_a_class_any_text_and_any_attributes_can_be_rebuilt_into_an_exception(kind, attributes):
    from qworker.model import ErrorInfo

    info = ErrorInfo(kind, (kind,), kind, kind, (kind,), attributes=attributes)
    assert isinstance(codec.rebuild_error(info, id="q:1"), Exception)
