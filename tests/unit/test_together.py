"""What is written for a script with commands beside it, and what its replies mean; no server here."""

from __future__ import annotations

import hiredis
import pytest

from qworker.broker import together
from qworker.broker.calls import Call
from qworker.broker.connection import AppliedAnywayError
from qworker.broker.scripts import load

OPEN = load("open")
SMALL, BIG = b"s" * 100, b"b" * 20_000


def call(**options: object) -> Call[object]:
    return Call("do a thing", OPEN, ["k"], ["a"], lambda reply: reply, **options)  # type: ignore[arg-type]


def commands(packed: tuple[bytes, ...]) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(b"".join(packed))
    found = []
    while (command := reader.gets()) is not False:
        found.append(command)
    return found


def test_what_is_before_a_script_is_done_with_it_and_what_is_large_is_not_copied() -> None:
    before = call(before=[("SET", "s", BIG, "PX", 5), ("SET", "t", SMALL)])

    packed = together.packed(before)

    assert any(piece is BIG for piece in packed)
    assert commands(packed) == [
        [b"MULTI"],
        [b"SET", b"s", BIG, b"PX", b"5"],
        [b"SET", b"t", SMALL],
        [b"EVALSHA", OPEN.sha.encode(), b"1", b"k", b"a"],
        [b"EXEC"],
    ]
    assert together.answers(before) == 5


def test_a_script_with_something_behind_it_is_sent_whole_so_that_it_cannot_be_unknown() -> None:
    after = together.packed(call(after=[("HSETNX", "h", "f", (SMALL, BIG))]))

    assert commands(after)[1:3] == [[b"EVAL", OPEN.text, b"1", b"k", b"a"], [b"HSETNX", b"h", b"f", SMALL + BIG]]


def test_the_reply_is_the_scripts_own() -> None:
    made = call(before=[("SET", "s", SMALL)], after=[("SET", "t", SMALL)])

    assert together.answer(made, [b"OK", b"QUEUED", b"QUEUED", b"QUEUED", [b"OK", [1], b"OK"]]) == [1]


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([b"OK", hiredis.ReplyError("OOM no"), b"QUEUED", hiredis.ReplyError("EXECABORT for errors")], "OOM no"),
        ([b"OK", b"QUEUED", b"QUEUED", hiredis.ReplyError("EXECABORT Transaction discarded because of: OOM late")],
         "OOM late"),
        ([b"OK", b"QUEUED", b"QUEUED", [b"OK", hiredis.ReplyError("NOSCRIPT no")]], "NOSCRIPT no"),
    ],
)  # fmt: skip
def test_the_first_error_among_the_replies_is_raised(replies: list[object], message: str) -> None:
    with pytest.raises(hiredis.ReplyError, match=f"^{message}$"):
        together.answer(call(before=[("SET", "s", SMALL)]), replies)


@pytest.mark.parametrize(
    ("replies", "applied"),
    [
        ([hiredis.ReplyError("NOPERM multi"), b"OK", [1], hiredis.ReplyError("ERR EXEC without MULTI")], True),
        ([hiredis.ReplyError("NOPERM multi"), b"OK", hiredis.ReplyError("NOPERM evalsha"),
          hiredis.ReplyError("ERR EXEC without MULTI")], False),
        ([b"OK", b"QUEUED", b"QUEUED", hiredis.ReplyError("EXECABORT Transaction discarded because of: NOPERM exec")],
         False),
        ([b"OK", b"QUEUED", b"QUEUED", [hiredis.ReplyError("NOPERM set"), [1]]], True),
    ],
)  # fmt: skip
def test_an_error_beside_a_script_that_was_run_says_so(replies: list[object], applied: bool) -> None:
    with pytest.raises(hiredis.ReplyError, match=r"^NOPERM") as error:
        together.answer(call(before=[("SET", "s", SMALL)]), replies)

    assert isinstance(error.value, AppliedAnywayError) is applied
