"""A replica that lags takes the place of its primary: what it never heard of is lost and said to be, all else ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

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
    at_once = ("--repl-diskless-sync-delay", "0")  # else it waits five seconds for more replicas to come
    return new_server(None, *at_once), new_server(None, *at_once)


@pytest.fixture
def wires(servers: tuple[Server, Server]) -> Iterator[dict[str, Proxy]]:
    """The producer's and the worker's ways to whoever is the primary, and the replica's to the primary."""
    made = {name: Proxy(servers[0].socket_path, tcp=True) for name in ("producer", "worker", "replica")}
    yield made
    for wire in made.values():
        wire.close()


@pytest.fixture
def lagging(servers: tuple[Server, Server], wires: dict[str, Proxy]) -> Callable[[], None]:
    """Returns what to call when the replica is to hear nothing more; it has all that was before."""
    primary, replica = servers
    with redis.Redis.from_url(replica.url) as other:
        other.execute_command("REPLICAOF", "127.0.0.1", str(wires["replica"].port))
        wait_until(lambda: other.info("replication")["master_link_status"] == "up", description="the replica")

    def lag() -> None:
        with redis.Redis.from_url(primary.url) as admin, redis.Redis.from_url(replica.url) as other:
            offset = admin.info("replication")["master_repl_offset"]
            wait_until(lambda: other.info("replication")["slave_repl_offset"] >= offset, description="it to have all")
        wires["replica"].blackhole()

    return lag


def promote(replica: Server) -> None:
    with redis.Redis.from_url(replica.url) as other:
        other.execute_command("REPLICAOF", "NO", "ONE")


def test_a_replica_that_lags_takes_over_and_what_it_knows_ends_and_what_it_does_not_is_said_to_be_lost(
    start, servers, wires, lagging, execution_log
) -> None:
    primary, replica = servers
    with bound(wires["producer"].url) as tasks:
        worker = start(
            "-c", "2", "--window", "2", target=PROMISES, server_url=wires["worker"].url, env={"QWORKER_LEASE": "2"}
        )
        ended_before = tasks.nap.submit(0.0, "before")
        assert ended_before.result(timeout=10) == "before"
        running = tasks.nap.submit(3.0, "running")
        wait_until(lambda: len(runs(execution_log)) == 2, description="the long one to run")
        queued = tasks.nap.options(delay=1.5).submit_many([call(0.0, n) for n in range(20)])
        forgotten = tasks.nap.options(delay=0.7).submit(0.0, "twice")

        lagging()
        assert forgotten.result(timeout=10) == "twice"
        lost_queued = tasks.nap.options(delay=3600).submit(0.0, "lost")
        lost_running = tasks.nap.submit(60.0, "lost")
        wait_until(lambda: lost_running.id in starts(execution_log), description="the lost one to run")
        lost_stranger = tasks.app.future(lost_queued.id)
        promote(replica)
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


def test_what_ends_under_a_claim_that_the_replica_never_heard_of_is_refused_and_the_attempt_that_it_knows_runs_again(
    start, servers, wires, lagging, execution_log, tmp_path
) -> None:
    """The replica has both tasks in their first state, queued: it knows neither the claim nor the retry."""
    primary, replica = servers
    gate = str(tmp_path / "gate")

    def let_go(pids: set[int]) -> None:
        for pid in pids:
            Path(f"{gate}-{pid}").touch()

    with bound(wires["producer"].url) as tasks, redis.Redis.from_url(replica.url) as other:
        plain, retried = tasks.until_let_go.submit(gate), tasks.until_let_go.submit(gate, fail_first=True)
        lagging()
        first = start("-c", "2", target=PROMISES, server_url=wires["worker"].url, env={"QWORKER_LEASE": "2"})
        wait_until(lambda: len(runs(execution_log)) == 3, description="one of them to run, and the other one again")
        before = runs(execution_log)
        assert {(run.id, run.attempt) for run in before} == {(plain.id, 1), (retried.id, 1), (retried.id, 2)}

        wires["worker"].refuse()  # so that it hears of nothing until its copies have ended
        promote(replica)
        primary.kill()
        wires["producer"].move(replica.socket_path)
        wires["worker"].move(replica.socket_path)
        second = start("-c", "2", target=PROMISES, server_url=replica.url, env={"QWORKER_LEASE": "2"})
        # Three starts there: of the retried one the first attempt, which is all that the replica knows, and the next.
        after = wait_until(
            lambda: found if len(found := runs(execution_log)[3:]) == 3 else [], description="both to run"
        )
        assert {(run.id, run.attempt) for run in after} == {(plain.id, 1), (retried.id, 1), (retried.id, 2)}
        let_go({run.pid for run in before})
        wait_until(lambda: len([run for run in runs(execution_log) if run.end]) == 2, description="the old ones' ends")
        wires["worker"].accept()

        refused = first.wait_events("outcome.refused", 2)
        assert {event["task"] for event in refused} == {plain.id, retried.id}
        assert not plain.done()
        assert not retried.done()
        assert list(other.scan_iter("*:result:*")) == [], "no outcome under the claims from before"
        let_go({run.pid for run in after})

        ended = {future.id: future.result(timeout=10) for future in (plain, retried)}
        claims = {event["task"]: event for event in second.wait_events("task.ended", 2, outcome="succeeded")}
        assert set(claims) == set(ended)
        assert not first.events("task.ended", outcome="succeeded")
        assert [attempt for attempt, _ in ended.values()] == [1, 2]
        assert other.hget("qw:{default.default}:stats", "succeeded") == b"2"
        assert starts(execution_log) == {plain.id: 2, retried.id: 4}
