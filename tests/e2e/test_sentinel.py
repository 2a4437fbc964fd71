"""Producer, worker and command line by way of sentinels, through failovers: real processes on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from qworker import App, BrokerUnavailable, NotReplicated, ResultExpired, cli
from qworker.broker import Broker
from support.daemon import Worker
from support.history import chaos, workload
from support.history.client import Recorder
from support.history.executions import now
from support.history.judge import report
from support.history.records import Fault
from support.promised import PROMISES, bound, starts
from support.replicas import Node, wait_replicated
from support.sentinels import Watched
from support.servers import Kind
from support.waiting import wait_until

KINDS = ["redis", pytest.param("valkey", marks=pytest.mark.valkey)]
# Elections take seconds, on either server alike.
ONE_IS_QUICK = [pytest.param("redis", marks=pytest.mark.slow), KINDS[1]]
ECHO = "support.apps.basic.echo"
pytestmark = pytest.mark.timeout(120)  # some seconds each: sentinels take their time


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def watch(kind: Kind, **options: int) -> Watched:
        need(kind)
        made.append(Watched(kind, tmp_path / "watched", **options))
        return made[-1]

    yield watch
    for each in made:
        each.stop()


@pytest.mark.parametrize("kind", ONE_IS_QUICK)
def test_all_goes_on_when_the_primary_is_killed_and_a_replica_takes_its_place(
    watch: Callable[..., Watched], start: Callable[..., Worker], kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = watch(kind)
    worker = start("-c", "2", server_url=watched.url)
    watched.sentinels[0].server.kill()  # the first that is asked
    with App(watched.url, connect_timeout=30) as app:
        echo = app.named(ECHO)
        assert echo.submit("before").result(timeout=10) == "before"
        runs = app.submit("support.apps.basic.polite", 5.0)
        wait_until(lambda: runs.status().worker, description="its claim")
        later = echo.options(delay=4).submit("later")
        wait_replicated(watched.primary)
        watched.primary.server.kill()

        assert echo.submit("during").result(timeout=30) == "during"
        assert (runs.result(timeout=30), later.result(timeout=30)) == ("done", "later")
        watched.sentinels.pop(0)
        assert watched.wait_failover() is watched.nodes[1]
        assert cli.run(("status", "--url", watched.url)) == 0
    with Broker(watched.url) as broker:
        counters = broker.stats("default").counters
    assert (counters["submitted"], counters["succeeded"]) == (4, 4)
    assert worker.events("redis.state_lost") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_primary_that_steps_back_is_left_for_the_new_one(
    watch: Callable[..., Watched], start: Callable[..., Worker], kind: Kind
) -> None:
    watched = watch(kind)
    start("-c", "1", server_url=watched.url)
    with App(watched.url, connect_timeout=20) as app:
        echo = app.named(ECHO)
        assert echo.submit(1).result(timeout=10) == 1
        before = watched.primary
        with watched.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", "mymaster")
        watched.wait_failover()
        with before.client() as client:
            wait_until(lambda: client.role()[0] == "slave", timeout=40, description="the old one to follow")

        many = echo.submit_many([echo.call(n) for n in range(50)])
        assert [future.result(timeout=20) for future in many] == [*range(50)]
    with watched.primary.client() as client:
        assert client.hget("qw:{default.default}:stats", "submitted") == "51"


@pytest.mark.valkey
def test_a_history_through_a_failover_is_clean(
    watch: Callable[..., Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch("valkey", replicas=2)
    calm = {kind: 0 if kind in ("hangs", "timed out", "dies", "long") else n for kind, n in workload.SHARES.items()}
    monkeypatch.setattr(workload, "SHARES", calm)

    def scene(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
        producer = chaos.Producer(client, workload.plan(plan.seed, plan.tasks), fleet.log)
        producer.go_on_to(plan.tasks)
        producer.start()
        assert client.wait(lambda: client.done >= plan.tasks // 4, 30), "a quarter of the tasks have to end first"
        at = now()
        watched.primary.server.kill()
        watched.wait_failover()
        until = now()
        producer.join()
        if producer.error is not None:
            raise producer.error
        return [Fault("failover", at, until)]

    plan = chaos.Plan(31, 150, workers=2, slots="process=1,thread=1", lease_s=2.0)
    done = chaos.run(plan, tmp_path / "run", scene=scene, server=watched)  # type: ignore[arg-type]

    assert not done.violations, report(done.violations)


def fall_behind(watched: Watched) -> Node:
    """Have the only replica hear nothing any more, of what comes from now on."""
    (replica,) = (node for node in watched.nodes if node is not watched.primary)
    with watched.primary.client() as client:
        wait_until(lambda: client.wait(1, 100), description="the replica to have all so far")
        replica.server.freeze()
        client.client_kill_filter(_type="replica")
    return replica


@pytest.mark.valkey
def test_what_a_replica_had_not_heard_is_lost_with_the_primary_and_that_is_said_and_what_it_had_goes_on_in_its_worker(
    watch: Callable[..., Watched], start: Callable[..., Worker], execution_log: Path
) -> None:
    watched = watch("valkey")
    worker = start("-c", "3", target=PROMISES, server_url=watched.url)
    with bound(watched.url) as tasks:
        known = tasks.polite.submit(60)
        later = tasks.nap.options(delay=3600).submit(0.0, "kept")
        wait_until(lambda: known.id in starts(execution_log), description="the one that the replica hears of to run")
        replica = fall_behind(watched)
        lost_later = tasks.nap.options(delay=3600).submit(0.0, "lost")
        lost = tasks.polite.submit(60)
        ended = tasks.nap.options(id="again").submit(0.0, "again")
        assert ended.result(timeout=20) == "again"
        wait_until(lambda: lost.id in starts(execution_log), description="the other one to run")
        watched.primary.server.kill()
        replica.server.thaw()
        watched.wait_failover()

        worker.wait_event("claim.lost", first=lost.id, timeout=20)
        for future in (lost, lost_later):
            with pytest.raises(ResultExpired, match=r"knows nothing of it any more: .* or the server lost"):
                future.result(timeout=20)
        assert tasks.nap.options(id="again").submit(0.0, "again").result(timeout=20) == "again"
        assert later.status().state == "scheduled"
        # The same process ran it before, through and after the failover, and still hears what it is told.
        assert known.stop(wait=10).how == "noticed"
    assert starts(execution_log) == {known.id: 1, lost.id: 1, ended.id: 2}
    assert not worker.events("claim.lost", first=known.id)


@pytest.mark.valkey
def test_a_durable_submit_knows_that_a_replica_is_behind(watch: Callable[..., Watched]) -> None:
    watched = watch("valkey")
    with watched.primary.client() as client:
        client.config_set("appendfsync", "always")
    with App(watched.url, durable=True, connect_timeout=20) as app:
        app.named(ECHO).submit(1)
    replica = fall_behind(watched)
    with App(watched.url, durable=True, connect_timeout=1) as app, pytest.raises(NotReplicated, match="on a replica"):
        app.named(ECHO).submit(2)
    replica.server.thaw()


def test_who_knows_no_primary_says_so(watch: Callable[..., Any]) -> None:
    watched = watch("valkey")
    other = watched.url.replace("/mymaster/", "/other/")

    with App(other, connect_timeout=0.5) as app, pytest.raises(BrokerUnavailable, match="it knows no service 'other'"):
        app.submit(ECHO, 1)
