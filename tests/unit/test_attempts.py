"""The retry loop's rules: what each kind of error means, without a server."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import redis
from redis.exceptions import BusyLoadingError, NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as Broken

from qworker.broker import connection
from qworker.broker.calls import Call
from qworker.broker.connection import AppliedAnywayError, Attempts, attempt_s, code_of, in_step, public_url
from qworker.errors import BrokerError, BrokerUnavailable, Conflict, ServerFull, ServerUnfit, SubmitUnknown

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


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("timeout_s", [60.0, 0.0])
def test_no_answer_makes_the_client_connect_anew_also_when_it_gives_up(sent: bool, timeout_s: float) -> None:
    tries = attempts(timeout_s=timeout_s)

    if timeout_s:
        tries.failed(TimeoutError(), sent=sent)
    else:
        with pytest.raises(BrokerUnavailable):
            tries.failed(TimeoutError(), sent=sent)

    assert tries.reconnect
    again = attempts()
    again.failed(BusyLoadingError("loading"), sent=True)
    assert not again.reconnect


FINAL = [
    redis.exceptions.AuthenticationError("Authentication required."),
    redis.exceptions.NoPermissionError("no rights"),
    redis.exceptions.OutOfMemoryError("command not allowed"),
    redis.exceptions.MovedError("1 box:6379"),
    ResponseError("ERR user_script:12: boom."),
    Broken("SSL: CERTIFICATE_VERIFY_FAILED certificate verify failed: expired"),
]


@pytest.mark.parametrize("error", FINAL, ids=lambda error: f"{type(error).__name__}")
def test_a_refusal_after_a_sending_without_an_answer_leaves_what_that_did_unknown(error: Exception) -> None:
    made = call(unanswered=SubmitUnknown)
    tries = attempts(made)
    tries.failed(Broken("reset"), sent=True)

    with pytest.raises(SubmitUnknown, match=r"^cannot do a thing: .*[^.]\.$") as unknown:
        tries.failed(error, sent=False)

    assert "nothing of it was done" not in str(unknown.value)
    with pytest.raises((BrokerError, ServerFull)):
        attempts(made).failed(error, sent=False)


@pytest.mark.parametrize("error", FINAL, ids=lambda error: f"{type(error).__name__}")
def test_a_refused_call_without_an_error_of_its_own_says_that_it_may_have_been_done(error: Exception) -> None:
    tries = attempts()
    tries.failed(Broken("reset"), sent=True)

    with pytest.raises((BrokerError, ServerFull), match=r"[^.]\. It may have been done all the same$") as doubt:
        tries.failed(error, sent=False)

    assert "nothing of it was done" not in str(doubt.value)


def test_a_conflict_is_certain_also_after_a_sending_without_an_answer() -> None:
    tries = attempts(call(unanswered=SubmitUnknown, refused=Conflict))
    tries.failed(Broken("reset"), sent=True)

    with pytest.raises(Conflict):
        tries.failed(ResponseError("CONFLICT a"), sent=True)


def test_a_refusal_of_a_part_of_a_call_whose_script_was_run_leaves_it_unknown() -> None:
    made = call(unanswered=SubmitUnknown)

    with pytest.raises(SubmitUnknown, match="does not allow it: NOPERM no rights"):
        attempts(made).failed(AppliedAnywayError("NOPERM no rights"), sent=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(connection, "time", clock)
    return clock


def test_what_may_have_been_applied_is_not_sent_again_when_its_end_may_be_forgotten(clock: SimpleNamespace) -> None:
    """It is remembered for 60 s from the end on, which may come at once; counted from the first sending."""
    tries = attempts(call(unanswered=SubmitUnknown), timeout_s=200)
    for clock.now in (20, 40):
        tries.failed(Broken("refused"), sent=False)
    for clock.now in (55, 70, 85):
        tries.failed(TimeoutError(), sent=True)
    clock.now = 92

    with pytest.raises(SubmitUnknown, match=r"no usable answer .* 5[23] s after its first sending \(6 attempts\)"):
        tries.failed(Broken("refused"), sent=False)


def test_what_was_never_sent_and_what_may_be_repeated_for_ever_is_tried_until_the_deadline(
    clock: SimpleNamespace,
) -> None:
    unsent, harmless = attempts(call(unanswered=SubmitUnknown), timeout_s=200), attempts(timeout_s=200)
    for clock.now in range(10, 180, 10):
        unsent.failed(Broken("refused"), sent=False)
        harmless.failed(TimeoutError(), sent=True)
    clock.now = 200

    with pytest.raises(BrokerUnavailable, match="within 200 s"):
        unsent.failed(Broken("refused"), sent=False)
    with pytest.raises(BrokerUnavailable, match="within 200 s"):
        harmless.failed(TimeoutError(), sent=True)


@pytest.mark.parametrize(
    ("timeout_s", "one_s"), [(0.0, 0.05), (6.0, 2.0), (195.0, 15.0), (3e9, 15.0), (math.inf, 15.0)]
)
def test_one_attempt_takes_a_third_of_the_time_and_never_so_long_that_none_could_follow(
    timeout_s: float, one_s: float
) -> None:
    assert attempt_s(timeout_s) == one_s


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
