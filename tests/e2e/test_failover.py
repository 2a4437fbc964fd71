"""A replica that lags takes the place of its primary: what it never heard of is lost and said to be, all else ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from qworker import call
from qworker.errors import ResultExpired, TaskNotFound
from support.promised import PROMISES, bound, runs, starts
from support.proxy import Proxy
from support.servers import Server
from support.waiting import wait_until


@pytest.fixture
def servers(new_server: Callable[..., Server]) -> tuple[Server, Server]:
    return new_server(), new_server()


@pytest.fixture
def wires(servers: tuple[Server, Server]) -> Iterator[dict[str, Proxy]]:
    """The producer's and the worker's ways to whoever is the primary, and the replica's to the primary."""
    made = {name: Proxy(servers[0].socket_path, tcp=True) for name in ("producer", "worker", "replica")}
    yield made
    for wire in made.values():
        wire.close()


def test_a_replica_that_lags_takes_over_and_what_it_knows_ends_and_what_it_does_not_is_said_to_be_lost(
    start, servers, wires, execution_log
) -> None:
    primary, replica = servers
    with (
        bound(wires["producer"].url) as tasks,
        redis.Redis.from_url(replica.url) as other,
        redis.Redis.from_url(primary.url) as admin,
    ):
        other.execute_command("REPLICAOF", "127.0.0.1", str(wires["replica"].port))
        wait_until(lambda: other.info("replication")["master_link_status"] == "up", description="the replica")
        worker = start(
            "-c", "2", "--window", "2", target=PROMISES, server_url=wires["worker"].url, env={"QWORKER_LEASE": "2"}
        )
        ended_before = tasks.nap.submit(0.0, "before")
        assert ended_before.result(timeout=10) == "before"
        running = tasks.nap.submit(3.0, "running")
        wait_until(lambda: len(runs(execution_log)) == 2, description="the long one to run")
        queued = tasks.nap.options(delay=1.5).submit_many([call(0.0, n) for n in range(20)])
        forgotten = tasks.nap.options(delay=0.7).submit(0.0, "twice")
        offset = admin.info("replication")["master_repl_offset"]
        wait_until(lambda: other.info("replication")["slave_repl_offset"] >= offset, description="it to have all that")

        wires["replica"].blackhole()  # from here on it lags
        assert forgotten.result(timeout=10) == "twice"
        lost_queued = tasks.nap.options(delay=3600).submit(0.0, "lost")
        lost_running = tasks.nap.submit(60.0, "lost")
        wait_until(lambda: lost_running.id in starts(execution_log), description="the lost one to run")
        lost_stranger = tasks.app.future(lost_queued.id)
        other.execute_command("REPLICAOF", "NO", "ONE")
        primary.kill()
        wires["producer"].move(replica.socket_path)
        wires["worker"].move(replica.socket_path)

        assert [future.result(timeout=20) for future in queued] == list(range(20))
        assert running.result(timeout=20) == "running"
        for future in (lost_queued, lost_running, lost_stranger):
            with pytest.raises((ResultExpired, TaskNotFound)):
                future.result(timeout=10)
        worker.wait_event("claim.lost", first=lost_running.id)
        assert tasks.nap.submit(0.0, "after").result(timeout=10) == "after", "the slot of the lost one is free"

        # Its outcome was lost, so it ran again: at least once. Whoever had the first one keeps it.
        assert (ended_before.result(), forgotten.result()) == ("before", "twice")
        assert tasks.app.future(forgotten.id).result(timeout=10) == "twice"
        assert starts(execution_log).pop(forgotten.id) == 2
        assert {count for id_, count in starts(execution_log).items() if id_ != forgotten.id} == {1}
