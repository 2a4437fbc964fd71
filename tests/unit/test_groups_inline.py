"""Groups of an inline app: the same block, the same errors, without a server."""

from __future__ import annotations

import asyncio

import pytest

from qworker import App, BadOption, GroupStopped, current
from qworker.context import running


@pytest.fixture
def app() -> App:
    app = App(inline=True)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail")
    def fail(text: str) -> None:
        raise ValueError(text)

    @app.task(name="where")
    def where(deeper: int = 0) -> list[object]:
        run = running()
        assert run is not None
        below = app.tasks["where"].submit(deeper - 1).result() if deeper else None
        return [current.id, run.depth, list(run.groups), below]

    return app


def test_a_block_collects_futures_and_receipts(app: App) -> None:
    with app.group() as g:
        future = g.submit("add", 1, 2)

    assert future.result() == 3
    assert [(receipt.id, receipt.outcome, receipt.still_running) for receipt in g.receipts] == [
        (future.id, "succeeded", False)
    ]


def test_a_failure_stops_the_group_and_comes_out_as_one_group_of_errors(app: App) -> None:
    with pytest.raises(ExceptionGroup) as caught, app.group(name="sums") as g:
        g.submit("fail", "a")
        g.submit("add", 1, 2)

    assert caught.value.message == f"unhandled errors in group {g.id} (sums)"
    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('a')"]
    assert len(g.futures) == 1


def test_an_error_of_the_body_stands_beside_those_of_the_tasks(app: App) -> None:
    with pytest.raises(ExceptionGroup) as caught, app.group(max_failures=5) as g:
        g.submit("fail", "a")
        raise KeyError("b")

    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('a')", "KeyError('b')"]


def test_an_error_that_the_body_got_from_a_task_is_told_once(app: App) -> None:
    with pytest.raises(ExceptionGroup) as caught, app.group() as g:
        g.submit("fail", "a").result()

    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('a')"]


def test_the_block_is_left_quietly_after_a_stop_of_its_own(app: App) -> None:
    with app.group() as g:
        g.stop()
        g.submit("add", 1, 2)

    assert g.futures == ()
    assert "stopped" not in repr(g)
    with pytest.raises(GroupStopped, match="its block was left"):
        g.submit("add", 1, 2)


def test_a_group_is_one_block(app: App) -> None:
    g = app.group()
    with pytest.raises(RuntimeError, match="takes tasks inside of its block only"):
        g.submit("add", 1, 2)
    with g, pytest.raises(RuntimeError, match="cannot be entered twice"), g:
        raise AssertionError("it was entered twice")


def test_tasks_know_their_groups_and_hand_them_down(app: App) -> None:
    with app.group() as outer, app.group() as inner:
        top, depth, groups, below = inner.submit("where", 1).result()

    assert (depth, groups) == (0, [outer.id, inner.id])
    assert below[1:] == [1, [outer.id, inner.id], None]
    assert below[0] != top


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timeout": "soon"}, "timeout: 'soon' is not a duration: write it as 30"),
        ({"name": 3}, "name=3: expected text"),
        ({"max_failures": -1}, "max_failures=-1: expected a whole number of at least 0"),
        ({"max_failures": True}, "max_failures=True: expected a whole number"),
        ({"on_owner_loss": "run"}, "on_owner_loss='run': expected one of cancel, detach"),
        ({"timeout": 0}, "timeout=0: no group can end in no time; None means no limit"),
    ],
)
def test_wrong_options_are_refused_where_they_are_written(app: App, options, text: str) -> None:
    with pytest.raises(BadOption, match=text):
        app.group(**options)


def test_async_with_works_inline_too(app: App) -> None:
    async def main() -> int:
        async with app.group() as g:
            future = await g.asubmit("add", 2, 3)
        return future.result()

    assert asyncio.run(main()) == 5
