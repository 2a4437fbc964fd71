"""`map` and `amap` without a server: what is refused, and how lazy they are inline."""

from __future__ import annotations

import asyncio

import pytest

from qworker import App, BadOption, TaskFailed

app = App(inline=True)
ran: list[int] = []


@app.task
def double(n: int) -> int:
    ran.append(n)
    if n == 13:
        raise RuntimeError("thirteen")
    return 2 * n


@app.task
def size(pair: tuple[int, ...]) -> int:
    return len(pair)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"window": 0}, "window=0: expected a whole number of at least 1"),
        ({"window": True}, "window=True: expected"),
        ({"errors": "ignore"}, "errors='ignore': expected 'raise' or 'return'"),
        ({"item_timeout": 0}, "item_timeout=0: no item can end in no time; None means no limit"),
        ({"item_timeout": "soon"}, "item_timeout: 'soon' is not a duration"),
    ],
)
def test_what_cannot_be_used_is_refused_where_it_is_written(arguments, text: str) -> None:
    for make in (double.map, double.amap):
        with pytest.raises(BadOption) as caught:
            make([], **arguments)
        assert text in str(caught.value)


def test_a_task_with_an_id_of_its_own_cannot_be_mapped() -> None:
    with pytest.raises(BadOption, match="id='one' is the id of one task, but map submits many"):
        double.options(id="one").map([1, 2])


def test_inline_each_item_runs_when_its_value_is_asked_for() -> None:
    values = double.map(range(1000))
    assert ran == []

    assert [next(values), next(values)] == [0, 2]

    assert ran == [0, 1]


def test_a_tuple_is_one_argument() -> None:
    assert list(size.map([(1, 2), (1, 2, 3)])) == [2, 3]


def test_no_items_are_no_values() -> None:
    assert list(double.map([])) == []
    assert list(double.map(iter(()), ordered=False)) == []


def test_the_first_error_is_raised_in_its_turn() -> None:
    values = double.map([1, 13, 2])
    assert next(values) == 2

    with pytest.raises(RuntimeError, match="thirteen"):
        next(values)

    assert list(values) == []


def test_errors_can_stand_in_the_place_of_values() -> None:
    """Also those of items that cannot be submitted at all."""
    first, failed, refused, last = double.map([1, 13, object(), 2], errors="return")

    assert (first, last) == (2, 4)
    assert isinstance(failed, RuntimeError)
    assert "object" in str(refused)


def test_amap_gives_the_same_inline() -> None:
    async def inputs():
        for n in (1, 13, 2):
            yield n

    async def check() -> None:
        values = [value async for value in double.amap(inputs(), errors="return")]
        assert values[0::2] == [2, 4]
        assert isinstance(values[1], RuntimeError | TaskFailed)
        assert [value async for value in double.amap(range(3), ordered=False)] == [0, 2, 4]

    asyncio.run(check())
