"""Options as users write them: what becomes of them, and each refusal's text."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qworker import App
from qworker.errors import BadOption, ConfigError, Refused
from qworker.model import Header, Line
from qworker.options import Options, pool_need


def merged(**given: Any) -> Options:
    return Options().merged(given)  # type: ignore[arg-type]


def test_without_options_the_header_is_the_default_one() -> None:
    assert Options().header("tasks.f") == Header("tasks.f")


def test_every_option_arrives_in_the_header_the_line_or_the_moments() -> None:
    options = merged(
        timeout="10m",
        grace=timedelta(seconds=2),
        retries=3,
        backoff=0.5,
        jitter=False,
        retry_for=(OSError, ValueError),
        priority="high",
        queue="mail",
        pool="thread",
        result_ttl=0,
        delivery="at_most_once",
        max_crashes=1,
        delay=2,
        deadline="1m",
        id="a1",
    )

    assert options.header("f") == Header(
        name="f",
        timeout_ms=600_000,
        grace_ms=2_000,
        retries=3,
        backoff_ms=500,
        jitter=False,
        retry_for=("builtins.OSError", "builtins.ValueError"),
        result_ttl_ms=0,
        delivery="at_most_once",
        max_crashes=1,
    )
    assert options.line(is_async=False) == Line("thread", "high")
    assert (options.queue, options.id) == ("mail", "a1")
    assert options.moments() == (2_000, 60_000)


def test_options_given_later_replace_only_what_they_name() -> None:
    base = merged(timeout=5, retries=2)

    later = base.merged({"retries": 0})

    assert (later.timeout_ms, later.retries) == (5_000, 0)
    assert base.retries == 2


def test_a_timeout_of_none_is_no_limit() -> None:
    assert merged(timeout=None).timeout_ms is None


def test_a_single_class_may_be_given_for_retry_for() -> None:
    assert merged(retry_for=KeyError).retry_for == ("builtins.KeyError",)


def test_coroutines_go_to_the_async_pool_and_the_others_to_the_default_unless_one_is_named() -> None:
    assert pool_need(None, is_async=True) == "async"
    assert pool_need("process", is_async=True) == "process"
    assert pool_need(None, is_async=False) == "default"
    assert pool_need("async", is_async=False) == "async"


def test_datetimes_become_what_remains_of_them() -> None:
    options = merged(
        delay=datetime.now(UTC) + timedelta(seconds=60), deadline=datetime.now(UTC) + timedelta(seconds=120)
    )

    delay_ms, deadline_ms = options.moments()

    assert 55_000 < delay_ms <= 60_000
    assert 115_000 < deadline_ms <= 120_000


def test_a_start_that_lies_in_the_past_is_now() -> None:
    assert merged(delay=datetime.now(UTC) - timedelta(hours=1)).moments() == (0, 0)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"timeout": 0}, "timeout=0: no task can run in no time; None means no limit"),
        ({"timeout": -1}, "timeout: -1 is not a duration: it must be between 0 and 100 years"),
        ({"timeout": "soon"}, "timeout: 'soon' is not a duration"),
        ({"timeout": True}, "timeout: True is not a duration"),
        ({"grace": 1e12}, "grace: 1000000000000.0 is not a duration"),
        ({"retries": -1}, "retries=-1: expected a whole number of at least 0"),
        ({"retries": 1.5}, "retries=1.5: expected a whole number"),
        ({"max_crashes": 0}, "max_crashes=0: expected a whole number of at least 1"),
        ({"jitter": 1}, "jitter=1: expected True or False"),
        ({"retry_for": ("OSError",)}, "'OSError' is none"),
        ({"retry_for": KeyboardInterrupt}, "expected exception classes"),
        ({"priority": "urgent"}, "priority='urgent': expected one of high, normal, low"),
        ({"pool": "fibre"}, "pool='fibre': expected one of process, thread, async"),
        ({"delivery": "once"}, "delivery='once': expected one of at_least_once, at_most_once"),
        ({"queue": "Mail!"}, "queue 'Mail!': a queue has 1 to 48 characters"),
        ({"queue": None}, "queue None"),
        ({"id": "a b"}, "id='a b': an id has 1 to 64 characters"),
        ({"id": "default:a"}, "id='default:a'"),
        ({"delay": datetime(2030, 1, 1)}, "a datetime without a time zone could mean any hour"),  # noqa: DTZ001
        ({"deadline": 0}, "deadline=0: a deadline must lie ahead"),
        ({"time_out": 3}, "no option 'time_out': did you mean timeout? The options of a task are backoff, deadline"),
        ({"xyzzy": 3}, "there is no option 'xyzzy'; the options of a task are backoff, deadline"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_name(given: dict[str, Any], text: str) -> None:
    with pytest.raises(BadOption) as caught:
        merged(**given)

    assert text in str(caught.value)


def test_a_refused_option_is_both_a_refusal_and_a_configuration_error() -> None:
    assert issubclass(BadOption, Refused)
    assert issubclass(BadOption, ConfigError)
    assert issubclass(BadOption, ValueError)


def test_a_delay_beyond_the_deadline_is_refused() -> None:
    with pytest.raises(BadOption, match=r"a delay of 5\.0 s is beyond the deadline, which is in 3\.0 s"):
        merged(delay=5, deadline=3).moments()


def test_a_deadline_that_has_passed_is_refused() -> None:
    with pytest.raises(BadOption, match="it passed 1 h ago"):
        merged(deadline=datetime.now(UTC) - timedelta(hours=1)).moments()


def test_who_is_to_be_interrupted_needs_a_process_slot_and_says_so_in_the_header() -> None:
    options = merged(interrupt=True)

    assert options.line(is_async=False).pool == "process"
    assert options.header("t").interrupt
    assert not Options().header("t").interrupt


@pytest.mark.parametrize("pool", ["thread", "async"])
def test_interrupting_what_runs_in_another_slot_is_refused(pool: str) -> None:
    with pytest.raises(BadOption, match=rf"interrupt=True and pool='{pool}': only a process slot's code"):
        merged(interrupt=True, pool=pool)


def test_interrupting_a_coroutine_function_is_refused() -> None:
    with pytest.raises(BadOption, match="a coroutine function cannot be interrupted by a signal, and need not be"):
        App().task(interrupt=True)(asyncio.sleep)
