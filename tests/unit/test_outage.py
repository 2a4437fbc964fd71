"""What a worker says while a server does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qworker.errors import BrokerError, BrokerUnavailable
from qworker.worker.outage import WAITING, Outage

GONE, SPOILED = BrokerUnavailable("gone"), BrokerError("WRONGTYPE")
SERVERS = {"one": "a", "two": "b", "three": "b"}


class Health:
    def succeeded(self) -> None:
        pass


def said(
    calls: Iterable[tuple[str, Exception | None]], servers: dict[str, str] | None = None
) -> list[tuple[object, ...]]:
    """What is said when calls about these queues end so, one after the other: the event's last word, queue and note."""
    told: list[tuple[object, ...]] = []

    def emit(name: str, /, *, level: str = "info", **fields: object) -> None:
        assert level == ("error" if name == "redis.unreachable" else "info")
        told.append((name.removeprefix("redis."), fields.get("queue"), fields.get("note")))

    outage = Outage(emit, Health(), None, *([servers.get] if servers else []))  # type: ignore[arg-type]
    for queue, error in calls:
        outage.call(queue, error)
    return told


def test_before_the_first_answer_nothing_runs_and_the_note_says_what_is_waited_for() -> None:
    assert said([("q", GONE), ("q", GONE), ("q", None)]) == [("unreachable", None, WAITING), ("back", None, None)]


def test_after_an_answer_the_note_says_that_running_tasks_go_on() -> None:
    note = "trying again with the same calls; running tasks go on"
    assert said([("q", None), ("q", GONE)]) == [("unreachable", None, note)]


def test_one_server_is_away_and_back_once_for_all_its_queues() -> None:
    told = said([("one", GONE), ("two", GONE), ("three", None), ("one", None), ("two", None)])
    assert [name for name, *_ in told] == ["unreachable", "back"]


def test_each_server_of_a_cluster_is_away_and_back_for_itself() -> None:
    """Else the answers of those that are there said that the other one was back, once a second."""
    calls: list[tuple[str, Exception | None]] = [
        ("one", GONE),
        ("two", None),
        ("one", GONE),
        ("three", GONE),
        ("one", GONE),
        ("two", None),
        ("one", None),
    ]
    told = said(calls, SERVERS)
    assert [(name, queue) for name, queue, _ in told] == [
        ("unreachable", "one"), ("unreachable", "three"), ("back", "two"), ("back", "one"),
    ]  # fmt: skip


def test_a_queue_that_another_server_has_taken_over_is_back() -> None:
    servers = dict(SERVERS)

    def calls() -> Iterator[tuple[str, Exception | None]]:
        yield from (("one", GONE), ("two", None))
        servers["one"] = "b"
        yield from (("two", None), ("one", None))

    assert [(name, queue) for name, queue, _ in said(calls(), servers)] == [("unreachable", "one"), ("back", "two")]


def test_what_is_refused_of_one_queue_is_not_over_when_another_is_answered() -> None:
    told = said([("one", SPOILED), ("two", None), ("one", SPOILED), ("two", GONE), ("two", None), ("one", None)])
    assert [(name, queue) for name, queue, _ in told] == [
        ("unreachable", "one"), ("unreachable", None), ("back", None), ("back", "one"),
    ]  # fmt: skip
