"""`App(inline=True)`: tasks run here and now; their arguments and values take the way through bytes all the same."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys

import pytest

from qworker import (
    App,
    BadCall,
    ConfigError,
    Conflict,
    Refused,
    ResultExpired,
    Retry,
    TaskFailed,
    TaskNotFound,
    ValueNotSent,
    call,
    current,
)
from qworker.task import Task


@pytest.fixture
def app() -> App:
    return App(inline=True)


def test_a_task_has_run_when_submit_returns(app: App) -> None:
    ran = []

    @app.task
    def f(x: int) -> tuple[int, int]:
        ran.append(x)
        return (x, x)

    future = f.submit(3)

    assert ran == [3]
    assert future.done()
    assert future.result() == (3, 3)
    assert str(future.status()).startswith("succeeded on inline")
    assert future.stop().outcome == "succeeded"
    assert not future.cancel()
    assert not future.running()
    assert concurrent.futures.wait([future]).not_done == set()


def test_arguments_and_values_are_copies_that_went_through_bytes(app: App) -> None:
    @app.task
    def f(items: list[int]) -> list[int]:
        items.append(2)
        return items

    given = [1]

    assert f.submit(given).result() == [1, 2]
    assert given == [1]


def test_a_value_that_would_not_survive_the_journey_fails_here_too(app: App) -> None:
    @app.task
    def f() -> object:
        return (n for n in range(3))

    with pytest.raises(ValueNotSent, match=r"f returned a value that cannot be sent: .*generator") as caught:
        f.submit().result()
    assert not isinstance(caught.value, Refused)  # "nothing happened"; but it ran


def test_exceptions_come_back_as_they_do_from_a_worker(app: App) -> None:
    @app.task
    def f() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone") as caught:
        f.submit().result()

    assert "test_inline.py" in str(caught.value.__cause__)


def test_current_works_in_the_task(app: App) -> None:
    @app.task(retries=1)
    def f() -> list[object]:
        current.check()
        current.progress(1, 2)
        return [current.id, current.name, current.attempt, current.retries, current.asked, current.remaining()]

    future = f.options(id="mine").submit()

    assert future.result() == ["default:mine", f.name, 1, 1, False, None]


def test_fences_grow(app: App) -> None:
    @app.task
    def f() -> int:
        return current.fence

    fences = [f.submit().result() for _ in range(3)]

    assert fences == sorted(set(fences))


def test_retries_happen_at_once_and_then_the_task_fails(app: App) -> None:
    @app.task(retries=2, backoff="1h")
    def succeeds_late(nth: int) -> int:
        if current.attempt < nth:
            raise OSError(f"attempt {current.attempt}")
        return current.attempt

    assert succeeds_late.submit(3).result() == 3
    with pytest.raises(OSError, match="attempt 3"):
        succeeds_late.submit(4).result()


def test_only_named_exceptions_are_retried_and_retry_always_is(app: App) -> None:
    runs: list[str] = []

    @app.task(retries=5, retry_for=OSError)
    def f(what: str) -> None:
        runs.append(what)
        if what == "file":
            raise FileNotFoundError
        if what == "retry" and current.attempt < 3:
            raise Retry("later", delay=3600)
        if what == "value":
            raise ValueError

    for what in ("file", "retry", "value"):
        f.submit(what)

    assert [runs.count(what) for what in ("file", "retry", "value")] == [6, 3, 1]


def test_coroutine_functions_run_with_and_without_a_loop_around(app: App) -> None:
    @app.task
    async def f(x: int) -> str:
        await asyncio.sleep(0)
        return f"{current.id.partition(':')[0]} {x}"

    async def main() -> list[str]:
        return [f.submit(2).result(), await (await f.asubmit(3))]

    assert f.submit(1).result() == "default 1"
    assert asyncio.run(main()) == ["default 2", "default 3"]


def test_a_coroutine_that_raises_inside_a_loop_fails_its_task(app: App) -> None:
    @app.task
    async def f() -> None:
        raise OSError("no")

    async def main() -> None:
        with pytest.raises(OSError, match="no"):
            await f.submit()

    asyncio.run(main())


def test_many_are_run_in_order(app: App) -> None:
    @app.task
    def f(x: int) -> int:
        return x * 2

    assert [future.result() for future in f.submit_many([call(1), call(x=2)])] == [2, 4]
    assert [future.result() for future in app.submit_many([f.call(3), f.call(4)])] == [6, 8]


def test_the_same_refusals_hold(app: App) -> None:
    @app.task
    def f(x: int) -> None: ...

    with pytest.raises(BadCall, match="missing a required argument"):
        f.submit()  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"App\(inline=True\) cannot run 'no\.such': it has no task of that name"):
        app.submit("no.such")


def test_a_given_id_is_one_task(app: App) -> None:
    @app.task
    def f(x: int) -> int:
        return x

    first = f.options(id="a").submit(1)

    assert f.options(id="a").submit(1) is first
    with pytest.raises(Conflict, match="default:a"):
        f.options(id="a").submit(2)
    assert app.future("default:a") is first


def test_an_id_that_never_ran_is_not_found(app: App) -> None:
    with pytest.raises(TaskNotFound):
        app.future("default:never").result()


def test_no_value_is_kept_without_a_result_ttl(app: App) -> None:
    @app.task(result_ttl=0)
    def f() -> int:
        return 1

    with pytest.raises(ResultExpired, match="result_ttl=0"):
        f.submit().result()


def test_there_is_no_server(app: App) -> None:
    assert not app.connected
    with pytest.raises(RuntimeError, match=r"App\(inline=True\) has no server"):
        app.client()
    app.close()


def test_an_interrupt_that_a_task_raises_itself_fails_it(app: App) -> None:
    from qworker import TaskInterrupt

    @app.task
    def f() -> None:
        raise TaskInterrupt("stop")

    with pytest.raises(TaskFailed, match="stop"):
        f.submit().result()


def test_an_exit_is_left_to_whoever_asked_for_it(app: App) -> None:
    task: Task[[], None] = app.task(sys.exit, name="exit")  # type: ignore[call-overload]
    with pytest.raises(SystemExit):
        task.submit()


def test_a_plain_call_is_still_a_plain_one_after_a_task_has_run_here():
    app = App(inline=True)
    check = app.task(current.check, name="check")
    check.submit().result()

    current.check()
    assert current.id == ""


def test_an_inline_retry_goes_on_after_the_last_completed_item():
    app = App(inline=True)
    done = []

    @app.task(name="rows", retries=1)
    def rows():
        for row in current.iterate(range(4)):
            if row == 2 and current.attempt == 1:
                raise RuntimeError
            done.append((current.attempt, row))

    rows.submit().result()

    assert done == [(1, 0), (1, 1), (2, 2), (2, 3)]
