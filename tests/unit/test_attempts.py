"""The retry loop's rules: what each kind of error means, without a server."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import BusyLoadingError, NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as Broken

from qworker.broker.calls import Call
from qworker.broker.connection import Attempts, code_of, in_step, public_url
from qworker.errors import BrokerError, BrokerUnavailable, ServerFull, ServerUnfit, SubmitUnknown

URL = "redis://:secret@box:6379/0"


def call(**options: object) -> Call[object]:
    return Call("do a thing", None, (), ("PING",), lambda reply: reply, **options)  # type: ignore[arg-type]


def attempts(made: Call[object] | None = None, timeout_s: float = 60.0) -> Attempts[object]:
    return Attempts(made or call(), url=URL, timeout_s=timeout_s)


PASSING = [
    BusyLoadingError("Redis is loading the dataset in memory"),
    ResponseError("BUSY Redis is busy running a script"),
    ResponseError("MISCONF Redis is configured to save RDB snapshots, but cannot"),
    ResponseError("NOREPLICAS Not enough good replicas to write"),
    redis.exceptions.ClusterDownError("The cluster is down"),
    redis.exceptions.TryAgainError("Multiple keys request during rehashing"),
    redis.exceptions.MasterDownError("Link with MASTER is down"),
    ReadOnlyError("You can't write against a read only replica."),
    Broken("Connection refused"),
    redis.exceptions.TimeoutError("Timeout reading"),
    TimeoutError(),
    ConnectionResetError(104, "reset"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_what_passes_is_tried_again_after_a_jittered_pause_until_the_deadline(error: Exception) -> None:
    tries = attempts()

    pauses = [tries.failed(error, sent=True) for _ in range(20)]

    assert all(0 <= pause <= 1.0 for pause in pauses)
    assert len(set(pauses)) > 10
    with pytest.raises(BrokerUnavailable, match=r"^cannot do a thing: .*( within 0 s \(1 attempts\); last:| refuses)"):
        attempts(timeout_s=0.0).failed(error, sent=True)


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (Broken("Error 111. Connection refused."), "ConnectionError: Error 111. Connection refused"),
        (TimeoutError(), "TimeoutError"),
        (Broken("gone"), "ConnectionError: gone"),
    ],
)  # fmt: skip
def test_the_last_error_is_told_with_one_full_stop_and_by_its_class_when_it_has_no_text(
    error: Exception, last: str
) -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        attempts(timeout_s=0.0).failed(error, sent=False)

    assert str(caught.value) == (
        "cannot do a thing: no usable answer from the server at redis://:***@box:6379/0 within 0 s (1 attempts);"
        f" last: {last}. Check that it runs and that the URL is right"
    )


@pytest.mark.parametrize("tail", ["", ".", " script: on @user_script:38.", " script: 1f2e, on @user_script:38."])
def test_a_server_that_cannot_write_to_its_disk_is_told_so(tail: str) -> None:
    full = ResponseError(f"MISCONF Errors writing to the AOF file: No space left on device{tail}")

    with pytest.raises(BrokerUnavailable) as caught:
        attempts(timeout_s=0.0).failed(full, sent=True)

    assert str(caught.value) == (
        "cannot do a thing: the server at redis://:***@box:6379/0 refuses writes: MISCONF Errors writing to the AOF"
        " file: No space left on device. Free space on its disk; it goes on by itself"
    )


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (redis.exceptions.OutOfMemoryError("command not allowed"), ServerFull, "is at its memory limit"),
        (
            ResponseError("ERR Error running script: @user_script:1: -OOM command not allowed"),
            ServerFull,
            "memory limit",
        ),
        (redis.exceptions.MovedError("1 box:6379"), ServerUnfit, "a node of a cluster"),
        (ResponseError("CROSSSLOT Keys in request don't hash"), ServerUnfit, "a node of a cluster"),
        (redis.exceptions.AuthenticationError("invalid password"), BrokerError, "does not allow it: invalid password"),
        (redis.exceptions.NoPermissionError("no rights"), BrokerError, "does not allow it: no rights"),
        (ResponseError("WRONGTYPE Operation against a key"), BrokerError, "answered with an error: WRONGTYPE"),
        (ResponseError("ERR user_script:12: boom"), BrokerError, "answered with an error: ERR user_script"),
    ],
)
def test_what_will_not_pass_is_raised_at_once(error: Exception, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=rf"^cannot do a thing: the server at redis://:\*\*\*@box:6379/0 .*{text}"):
        attempts().failed(error, sent=True)


def test_a_forgotten_script_is_loaded_and_the_call_sent_at_once() -> None:
    tries = attempts()

    pause = tries.failed(NoScriptError("No matching script"), sent=True)

    assert (pause, tries.load) == (0.0, True)
    tries.failed(Broken("gone"), sent=False)
    assert not tries.load


def test_a_call_that_may_have_been_applied_is_sent_in_its_second_form() -> None:
    second = call()
    tries = attempts(call(again=lambda: second))

    tries.failed(Broken("refused"), sent=False)
    first_form = tries.call is not second
    tries.failed(Broken("reset"), sent=True)

    assert first_form
    assert tries.call is second


def test_an_answer_that_was_lost_makes_the_end_unknown_and_one_that_was_never_asked_for_does_not() -> None:
    made = call(unanswered=SubmitUnknown)

    with pytest.raises(SubmitUnknown):
        attempts(made, timeout_s=0.0).failed(Broken("reset"), sent=True)
    with pytest.raises(BrokerUnavailable):
        attempts(made, timeout_s=0.0).failed(Broken("refused"), sent=False)
    with pytest.raises(BrokerUnavailable):
        attempts(made, timeout_s=0.0).failed(BusyLoadingError("loading"), sent=True)


def test_a_replica_makes_the_client_connect_anew() -> None:
    tries = attempts()

    tries.failed(ReadOnlyError("read only"), sent=True)

    assert tries.reconnect


def test_only_after_an_answer_of_our_own_the_connection_is_used_on() -> None:
    assert in_step(NoScriptError("x"))
    assert in_step(ResponseError("CONFLICT a"))
    assert not in_step(ResponseError("ERR x"))
    assert not in_step(TimeoutError())
    assert code_of(ValueError("ERR")) == ""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://box/0", "redis://box/0"),
        ("rediss://me:pw@box:1/0", "rediss://me:***@box:1/0"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        (
            "rediss://me:pw@h/0?ssl_password=pw&ssl_ca_certs=/ca&password=pw",
            "rediss://me:***@h/0?ssl_password=***&ssl_ca_certs=/ca&password=***",
        ),
        ("unix:///run/x.sock?password=a@b&db=1", "unix:///run/x.sock?password=***&db=1"),
        ("redis://me@h/0", "redis://me@h/0"),
        # Wrong, as its password is not escaped, and so shown in an error:
        ("redis://:p?w/@1@h:1/0", "redis://:***@h:1/0"),
        ("redis://:p[w@h:1/0", "redis://:***@h:1/0"),
        ("redis:me:pw@h", "redis:…"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert public_url(url) == shown
