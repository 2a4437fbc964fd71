"""The neighbours: a worker that is certainly dead is rescued at once, one that may live never is."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qworker.errors import BrokerUnavailable
from qworker.model import Rescued
from qworker.views import WorkerRecord
from qworker.worker import neighbours as neighbours_module
from qworker.worker.neighbours import Neighbours, boot_id, pid_ns, start_time
from support.roles import World, roles


def record(pid: int, **fields: Any) -> WorkerRecord:
    """What a worker in that process says of itself."""
    facts: dict[str, Any] = {
        "id": f"box:{pid}:abcd", "host": "box", "pid": pid, "boot_id": boot_id(), "pid_ns": pid_ns(),
        "start_time": start_time(pid) or 1, "queues": ("default", "slow"), "state": "running", "started_ms": 0,
        "slots": {"process": 1},
    }  # fmt: skip
    return WorkerRecord(**(facts | fields))


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the test ends it."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def gone_pid() -> int:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


async def look(w: World, *records: WorkerRecord) -> Neighbours:
    found = Neighbours(w.state, w.broker)
    w.broker.script("workers", records)
    await found.look()
    return found


def test_a_neighbour_that_dies_is_rescued_at_once_in_all_its_queues(neighbour) -> None:
    async def scenario() -> None:
        async with roles() as w:
            found = await look(w, record(neighbour.pid))
            assert not w.broker.calls["rescue_worker"]
            first = Rescued(3, (("c1", "a"), ("c1", "b"), ("c2", "c")))
            w.broker.script("rescue_worker", first, Rescued(2, (("c3", "a"),)))

            neighbour.kill()

            await w.broker.called("retire")
            assert [call["queue"] for call in w.broker.calls["rescue_worker"]] == ["default", "slow"]
            await asyncio.sleep(0)
            told = w.told("worker.died")[0]
            assert told["rescued"] == 5
            assert told["claims"] == "c1,c2,c3"
            assert told["tasks"] == "default:a,default:b,default:c,slow:a and 1 more"
            found.close()

    asyncio.run(scenario())


def test_a_neighbour_that_died_before_it_was_looked_at_is_rescued() -> None:
    async def scenario() -> None:
        async with roles() as w:
            pid = gone_pid()

            await look(w, record(pid))

            assert (await w.broker.called("rescue_worker"))["worker"] == f"box:{pid}:abcd"

    asyncio.run(scenario())


def test_a_pid_that_belongs_to_a_younger_process_is_a_dead_neighbour(neighbour) -> None:
    async def scenario() -> None:
        async with roles() as w:
            await look(w, record(neighbour.pid, start_time=12345))

            await w.broker.called("rescue_worker")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "other",
    [
        {"boot_id": "another boot"},
        {"pid_ns": "pid:[1]"},
        {"start_time": 0},  # it could not read its own
    ],
)
def test_a_worker_that_cannot_be_identified_is_left_to_its_lease(neighbour, other) -> None:
    async def scenario() -> None:
        async with roles() as w:
            found = await look(w, record(neighbour.pid, **other))
            await asyncio.sleep(0)

            assert not w.broker.calls["rescue_worker"]
            found.close()

    asyncio.run(scenario())


def test_a_living_neighbour_that_is_hidden_from_this_user_is_not_rescued(neighbour, monkeypatch) -> None:
    """With /proc mounted hidepid=invisible another user's process has no stat: that is not death."""

    async def scenario() -> None:
        async with roles() as w:
            told = record(neighbour.pid)
            monkeypatch.setattr(neighbours_module, "start_time", lambda _pid: None)

            found = await look(w, told)
            await asyncio.sleep(0)
            assert not w.broker.calls["rescue_worker"]

            neighbour.kill()
            await w.broker.called("rescue_worker")
            found.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [OSError(24, "too many open files"), PermissionError()])
def test_a_neighbour_that_cannot_be_watched_is_not_rescued(neighbour, monkeypatch, error) -> None:
    def fail(_pid: int) -> int:
        raise error

    monkeypatch.setattr(os, "pidfd_open", fail)

    async def scenario() -> None:
        async with roles() as w:
            await look(w, record(neighbour.pid))
            await asyncio.sleep(0)

            assert not w.broker.calls["rescue_worker"]

    asyncio.run(scenario())


@pytest.mark.parametrize("pid", [2**31, 2**40, 10**30, 0, -1, -(2**40)])
def test_a_pid_that_no_process_can_have_is_not_looked_at(monkeypatch, pid) -> None:
    """Any of them ended the worker, or could have named a whole group of processes."""
    opened: list[int] = []
    monkeypatch.setattr(os, "pidfd_open", opened.append)

    async def scenario() -> None:
        async with roles() as w:
            await look(w, record(pid))
            await asyncio.sleep(0)

            assert not opened
            assert not w.broker.calls["rescue_worker"]

    asyncio.run(scenario())


def test_two_records_of_one_id_are_one_neighbour_that_dies_once(neighbour) -> None:
    """The list names workers by what it was given; what a record says of its id is another matter."""

    async def scenario() -> None:
        async with roles() as w:
            told = record(neighbour.pid)
            found = await look(w, told, told, record(gone_pid(), id=told.id))
            assert not w.broker.calls["rescue_worker"]

            neighbour.kill()

            await w.broker.called("retire")
            assert not found._watched
            assert [call["queue"] for call in w.broker.calls["rescue_worker"]] == ["default", "slow"]

    asyncio.run(scenario())


def test_nobody_can_have_a_worker_rescue_from_itself_by_a_record_in_its_name() -> None:
    async def scenario() -> None:
        async with roles() as w:
            found = Neighbours(w.state, w.broker)
            dead = record(gone_pid(), id=w.state.id)
            w.broker.workers = lambda **_: answer(dead)

            await found.look()
            await asyncio.sleep(0)

            assert not w.broker.calls["rescue_worker"]

    async def answer(*records: WorkerRecord) -> tuple[WorkerRecord, ...]:
        return records

    asyncio.run(scenario())


def test_a_neighbour_is_watched_also_by_a_descriptor_beyond_a_thousand(neighbour, monkeypatch) -> None:
    """A worker with many children has so many, and `select` takes none of them."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2_048), limits[1]))
    open_low = os.pidfd_open

    def open_high(pid: int) -> int:
        low = open_low(pid)
        try:
            return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1_024)
        finally:
            os.close(low)

    monkeypatch.setattr(os, "pidfd_open", open_high)

    async def scenario() -> None:
        async with roles() as w:
            found = await look(w, record(neighbour.pid))
            assert min(found._watched.values()) >= 1_024

            neighbour.kill()
            await w.broker.called("rescue_worker")

    try:
        asyncio.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_records_beyond_number_take_no_more_than_some_descriptors(neighbour, monkeypatch) -> None:
    monkeypatch.setattr(neighbours_module, "MOST_WATCHED", 2)

    async def scenario() -> None:
        async with roles() as w:
            before = len(list(Path("/proc/self/fd").iterdir()))
            found = await look(w, *(record(neighbour.pid, id=f"box:1:{n}") for n in range(5)))
            await asyncio.sleep(0)

            assert list(found._watched) == ["box:1:0", "box:1:1"]
            assert len(list(Path("/proc/self/fd").iterdir())) == before + 2
            assert not w.broker.calls["rescue_worker"]
            found.close()

    asyncio.run(scenario())


def test_the_start_of_a_process_is_read_whatever_bytes_its_name_has() -> None:
    text = "import sys; open('/proc/self/comm', 'wb').write(b'\\xff) \\xfe'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-S", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()

        assert (start_time(odd.pid) or 0) >= (start_time(os.getpid()) or 0) > 0

        odd.kill()


def test_where_the_pid_namespace_is_not_told_no_pid_says_anything(monkeypatch) -> None:
    monkeypatch.setattr(neighbours_module, "pid_ns", lambda: "")

    async def scenario() -> None:
        async with roles() as w:
            await look(w, record(gone_pid(), pid_ns=""))
            await asyncio.sleep(0)

            assert not w.broker.calls["rescue_worker"]

    asyncio.run(scenario())


def test_a_rescue_that_got_no_answer_is_tried_again_with_the_next_look() -> None:
    async def scenario() -> None:
        async with roles() as w:
            dead = record(gone_pid())
            w.broker.script("rescue_worker", BrokerUnavailable("gone"))
            found = await look(w, dead)
            await w.broker.called("rescue_worker")
            assert not w.broker.calls["retire"]

            w.broker.script("workers", (dead,))
            await found.look()

            await w.broker.called("retire")

    asyncio.run(scenario())


def test_a_worker_does_not_watch_itself_and_nobody_twice(neighbour) -> None:
    async def scenario() -> None:
        async with roles() as w:
            told = record(neighbour.pid)
            found = await look(w, told, record(os.getpid(), id=w.state.id))
            w.broker.script("workers", (told,))
            await found.look()

            assert list(found._watched) == [told.id]
            found.close()
            assert not found._watched

    asyncio.run(scenario())


def test_closing_ends_a_rescue_that_is_under_way() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.later("rescue_worker")
            found = await look(w, record(gone_pid()))
            await w.broker.called("rescue_worker")
            (rescue,) = found._rescues

            found.close()

            await asyncio.wait({rescue}, timeout=1)
            assert rescue.cancelled()

    asyncio.run(scenario())


def test_a_neighbour_that_is_known_is_not_asked_for_again(neighbour) -> None:
    """Fifty idle workers would else read each other's records all the time."""

    async def scenario() -> None:
        async with roles() as w:
            known, elsewhere = record(neighbour.pid), record(1, id="far:1:abcd", boot_id="another")
            found = await look(w, known, elsewhere)

            await found.look()

            assert w.broker.calls["workers"][-1]["but"] == {w.state.id, known.id, elsewhere.id}
            found.close()

    asyncio.run(scenario())
