"""Producer, worker and command line on a cluster of three primaries: real processes on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import need
from qworker import App, ServerUnfit, cli
from qworker.broker import Broker
from qworker.broker.cluster import slot_of
from support.clusters import Cluster
from support.daemon import Worker
from support.promised import PROMISES, bound, starts
from support.replicas import wait_replicated
from support.rights import NAMESPACE, grant, rules
from support.servers import Kind
from support.waiting import wait_until

KINDS = ["redis", pytest.param("valkey", marks=pytest.mark.valkey)]
# Elections take seconds, on either server alike.
ONE_IS_QUICK = [pytest.param("redis", marks=pytest.mark.slow), KINDS[1]]
QUEUES = ("default", "qa", "qb", "qd", "qe")
ECHO = "support.apps.basic.echo"
pytestmark = pytest.mark.timeout(120)  # some seconds each


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(kind: Kind, **options: bool) -> Cluster:
        need(kind)
        made.append(Cluster(kind, tmp_path / "cluster", **options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_queues_live_on_all_three_primaries(
    make: Callable[..., Cluster], start: Callable[..., Worker], kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = make(kind)
    assert len({cluster.primary_of(queue).port for queue in QUEUES}) == 3
    worker = start("-c", "2", "-q", ",".join(QUEUES), server_url=cluster.url)
    with App(cluster.url) as app:
        echo = app.named(ECHO)
        many = app.submit_many([echo.options(queue=queue).call(n) for n in range(40) for queue in QUEUES])
        assert [future.result(timeout=20) for future in many] == [n for n in range(40) for _ in QUEUES]
        large = "x" * 100_000
        assert echo.options(queue="qd").submit(large).result(timeout=10) == large
        for queue in QUEUES[:3]:
            runs = app.named("support.apps.basic.polite").options(queue=queue).submit(60.0)
            wait_until(lambda runs=runs: runs.status().worker, description="its claim")
            assert runs.stop(wait=10)
            waits = echo.options(queue=queue, delay=60).submit(1)
            assert waits.cancel()
        assert cli.run(("show", runs.id, "--url", cluster.url)) == 0
    capsys.readouterr()
    assert cli.run(("status", "--url", cluster.url)) == 0
    shown = capsys.readouterr().out
    assert all(queue in shown for queue in QUEUES)
    with Broker(cluster.url) as broker:
        assert [broker.stats(queue).counters["succeeded"] for queue in QUEUES] == [40, 40, 40, 41, 40]
    worker.term()
    assert worker.wait() == 0


def test_a_lone_task_of_an_idle_worker_runs_once_wherever_that_worker_listens(
    make: Callable[..., Cluster], start: Callable[..., Worker], execution_log: Path
) -> None:
    """A server counts who listens to itself alone, and tells those of the others, too."""
    cluster = make("redis")
    for queue in QUEUES:
        start("-c", "1", "-q", queue, target=PROMISES, server_url=cluster.url)
    with bound(cluster.url) as tasks:
        for _ in range(3):
            for queue in QUEUES:
                assert tasks.nap.options(queue=queue).submit(0.0, queue).result(timeout=20) == queue

    assert set(starts(execution_log).values()) == {1}
    assert len(starts(execution_log)) == 3 * len(QUEUES)
    with Broker(cluster.url) as broker:
        assert [broker.stats(queue).counters.get("refused_late", 0) for queue in QUEUES] == [0] * len(QUEUES)


@pytest.mark.parametrize("kind", ONE_IS_QUICK)
def test_a_primary_that_is_killed_is_replaced_and_its_queues_go_on(
    make: Callable[..., Cluster], start: Callable[..., Worker], kind: Kind
) -> None:
    cluster = make(kind, replicas=True)
    start("-c", "2", "-q", ",".join(QUEUES), server_url=cluster.url)
    with App(cluster.url, connect_timeout=30) as app:
        echo = app.named(ECHO)
        assert echo.submit("before").result(timeout=10) == "before"
        later = echo.options(delay=3).submit("later")
        dead = cluster.primary_of("default")
        wait_replicated(dead)
        dead.server.kill()

        assert echo.submit("during").result(timeout=30) == "during"
        assert later.result(timeout=30) == "later"
        assert [echo.options(queue=queue).submit(1).result(timeout=30) for queue in QUEUES] == [1] * len(QUEUES)
    assert cluster.primary_of("default") is not dead
    with Broker(cluster.url) as broker:
        counters = broker.stats("default").counters
    assert (counters["submitted"], counters["succeeded"]) == (4, 4)


@pytest.mark.parametrize("first", ["away", "there"])
@pytest.mark.valkey
def test_a_primary_that_is_away_holds_up_the_queues_of_no_other(
    make: Callable[..., Cluster], start: Callable[..., Worker], execution_log: Path, first: str
) -> None:
    """Whichever of them comes first; for longer than a lease, and with tasks that the worker held by then."""
    cluster = make("valkey")
    for node in cluster.nodes:
        with node.client() as client:
            client.config_set("cluster-require-full-coverage", "no")
    away = "qa"
    there = next(queue for queue in QUEUES if cluster.primary_of(queue) is not cluster.primary_of(away))
    queues = (away, there) if first == "away" else (there, away)
    start("-c", "1", "-q", ",".join(queues), "--lease", "3", target=PROMISES, server_url=cluster.url)
    with bound(cluster.url) as tasks:
        assert tasks.nap.options(queue=there).submit(0.0, "first").result(timeout=10) == "first"
        held = tasks.nap.options(queue=away).submit(1.0, "held")
        wait_until(lambda: len(starts(execution_log)) == 2, description="its start")
        waits = tasks.nap.options(queue=away).submit(0.0, "waits")
        server = cluster.primary_of(away).server
        server.freeze()
        try:
            many = [tasks.nap.options(queue=there).submit(0.4, n) for n in range(15)]
            assert [future.result(timeout=30) for future in many] == list(range(15))
            assert not held.done()
        finally:
            server.thaw()
        assert (held.result(timeout=30), waits.result(timeout=30)) == ("held", "waits")
    assert set(starts(execution_log).values()) == {1}
    assert len(starts(execution_log)) == 18


@pytest.mark.valkey
def test_a_slot_that_has_moved_is_found_where_it_is(make: Callable[..., Cluster], start: Callable[..., Worker]) -> None:
    cluster = make("valkey")
    start("-c", "1", "-q", "qa", server_url=cluster.url)
    with App(cluster.url) as app, Broker(cluster.url) as broker:
        assert broker.stats("moving").ready == 0
        source = cluster.primary_of("moving")
        target = next(node for node in cluster.nodes if node is not source)
        cluster.move_slot(slot_of("default.moving"), source, target)

        app.named(ECHO).options(queue="moving").submit(1)

        assert broker.stats("moving").ready == 1
    with target.client() as client:
        assert client.hlen("qw:{default.moving}:bodies") == 1


@pytest.mark.valkey
def test_what_a_cluster_cannot_is_refused_with_its_reason(make: Callable[..., Cluster]) -> None:
    cluster = make("valkey")
    with App(cluster.url) as app:
        with pytest.raises(ServerUnfit, match="Task groups need a server that is no cluster"), app.group():
            pass
        with pytest.raises(ServerUnfit, match=r"durable=True: .* cluster; nothing was queued"):
            app.named(ECHO).options(durable=True).submit(1)
    with cluster.primary_of("default").client() as client:
        assert not client.exists("qw:{default.default}:bodies")
    single = f"redis://127.0.0.1:{cluster.primary_of('qa').port}/0"
    with App(single) as app, pytest.raises(ServerUnfit, match=r"Give all of it as its URL, redis\+cluster://"):
        app.submit(ECHO, 1)


@pytest.mark.valkey
def test_a_user_needs_one_right_more_for_it(make: Callable[..., Cluster]) -> None:
    cluster = make("valkey")
    for node in cluster.nodes:
        grant(node.server, "producer", *rules()["producer"], "+cluster|slots")

    with App(cluster.url.replace("://", "://producer:pw@"), namespace=NAMESPACE) as app:
        for queue in QUEUES:
            app.named(ECHO).options(queue=queue).submit(1)
