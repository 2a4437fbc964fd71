"""durable=True: a submit that returns is on disk and on a replica, or says that it is not known to be."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from qworker import App, BadOption, BrokerError, NotReplicated, ServerUnfit
from qworker.broker import Broker
from qworker.broker.durable import Durable
from qworker.model import Line
from support.brokers import item
from support.daemon import Worker
from support.power import VolatileDisk
from support.proxy import Proxy
from support.replicas import Node, start_primary, start_replica
from support.rights import NAMESPACE, PAGE, grant, rules, url_of
from support.servers import Server
from support.waiting import wait_until

ECHO = "support.apps.basic.echo"
pytestmark = pytest.mark.valkey


@pytest.fixture
def disk(tmp_path: Path) -> VolatileDisk:
    return VolatileDisk(tmp_path / "disk")


@pytest.fixture
def synced(new_server: Callable[..., Server]) -> Server:
    """A server that syncs each write to its disk."""
    return new_server("valkey", "--appendfsync", "always")


@pytest.fixture
def unsynced(new_server: Callable[..., Server]) -> Server:
    """A server whose writes nobody syncs."""
    return new_server("valkey")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., tuple[Node, Node]]]:
    nodes: list[Node] = []

    def make(kind: Any, **options: bool) -> tuple[Node, Node]:
        need(kind)
        nodes.append(start_primary(kind, tmp_path / "primary", **options))
        nodes.append(start_replica(nodes[0], tmp_path / "replica", **options))
        return nodes[0], nodes[1]

    yield make
    for node in nodes:
        node.server.stop()


def submitted(url: str) -> int:
    with Broker(url) as broker:
        return broker.stats("default").counters.get("submitted", 0)


@pytest.mark.parametrize("policy", ["everysec", "always"])
def test_what_was_submitted_durably_is_there_after_a_power_cut_at_once(
    disk: VolatileDisk, new_server: Callable[..., Server], start: Callable[..., Worker], policy: str
) -> None:
    server = new_server("valkey", "--appendfsync", policy, env=disk.environ)
    with App(server.url) as app:
        echo = app.named(ECHO).options(durable=True)
        one = echo.submit("one")
        disk.cut(server)
        server.start()
        many = echo.submit_many([echo.call(n) for n in range(600)])
        disk.cut(server)
        server.start()
        awaited = asyncio.run(echo.asubmit("awaited"))
        disk.cut(server)
        server.start()
        assert submitted(server.url) == 602
        start("-c", "2", server_url=server.url)

        assert (one.result(timeout=20), awaited.result(timeout=20)) == ("one", "awaited")
        assert [future.result(timeout=20) for future in many] == [*range(600)]


@pytest.mark.parametrize("kind", ["redis", "valkey"])
@pytest.mark.parametrize("cut", [True, False], ids=["power cut", "kill -9 during a sync"])
def test_what_was_submitted_plainly_may_be_lost(
    disk: VolatileDisk, new_server: Callable[..., Server], kind: str, cut: bool
) -> None:
    server = new_server(kind, "--appendfsync", "everysec", env=disk.environ)
    with App(server.url) as app, Broker(server.url) as broker:
        disk.hold()
        app.submit(ECHO, "the sync that this begins does not end")
        wait_until(lambda: broker.client.info()["aof_pending_bio_fsync"], description="the sync")
        app.submit(ECHO, "a server writes nothing while it syncs, for two seconds at most")
        disk.cut(server) if cut else server.kill()
        disk.release()
        server.start()
    assert submitted(server.url) == (0 if cut else 1)


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_server_that_syncs_each_write_loses_nothing_of_plain_submits_by_a_power_cut(
    disk: VolatileDisk, new_server: Callable[..., Server], kind: str
) -> None:
    server = new_server(kind, "--appendfsync", "always", env=disk.environ)
    with App(server.url) as app:
        echo = app.named(ECHO)
        for n in range(20):
            echo.submit(n)
        disk.cut(server)
        server.start()
        assert submitted(server.url) == 20


def test_a_disk_that_stands_still_is_said_and_what_was_said_to_be_kept_is(
    disk: VolatileDisk, new_server: Callable[..., Server]
) -> None:
    server = new_server("valkey", "--appendfsync", "everysec", env=disk.environ)
    with App(server.url, durable=True) as app:
        app.submit(ECHO, "kept")
    disk.hold()
    with App(server.url, durable=True, connect_timeout=0.3) as app, pytest.raises(NotReplicated, match="on its disk"):
        app.submit(ECHO, "not known to be kept")
    disk.cut(server)
    server.start()
    assert submitted(server.url) == 1


def test_what_is_not_on_disk_in_time_is_said_and_runs_all_the_same(
    unsynced: Server, start: Callable[..., Worker]
) -> None:
    with App(unsynced.url, connect_timeout=0.3, durable=True) as app:
        echo = app.named(ECHO)
        began = time.monotonic()
        with pytest.raises(NotReplicated, match=r"^task default:x is queued, but after 0\.3 s .* on its disk") as one:
            echo.options(id="x").submit(1)
        with pytest.raises(NotReplicated, match=r"^2 tasks are queued") as two:
            app.submit_many([echo.call(2), echo.options(durable=False).call(3), echo.call(4)])
        with pytest.raises(NotReplicated):
            asyncio.run(echo.asubmit(5))
        assert time.monotonic() - began < 5
        assert one.value.ids == ("default:x",)
        assert len(two.value.ids) == 2
        start("-c", "1", server_url=unsynced.url)

        assert one.value.future.result(timeout=10) == 1
        assert [future.result(timeout=10) for future in two.value.accepted] == [2, 3, 4]

        with Broker(unsynced.url) as broker:
            broker.client.config_set("appendfsync", "always")
        assert echo.options(id="x").submit(1).result(timeout=10) == 1
    assert submitted(unsynced.url) == 5


def test_a_group_knows_what_was_queued_and_is_not_known_to_be_kept(
    unsynced: Server, start: Callable[..., Worker]
) -> None:
    start("-c", "1", server_url=unsynced.url)
    with App(unsynced.url, connect_timeout=0.3, durable=True) as app:
        with app.group() as group, pytest.raises(NotReplicated) as doubt:
            group.submit(ECHO, 1)
        assert doubt.value.future.done()


def test_a_server_that_keeps_nothing_is_refused_and_nothing_is_queued(new_server: Callable[..., Server]) -> None:
    server = new_server("valkey", durable=False)

    with (
        App(server.url) as app,
        pytest.raises(ServerUnfit, match="append-only file is off, and it has no"),
    ):
        app.named(ECHO).options(durable=True).submit(1)

    assert submitted(server.url) == 0


def test_a_server_that_cannot_tell_is_refused_and_nothing_is_queued(new_server: Callable[..., Server]) -> None:
    server = new_server("redis")
    with Broker(server.url) as broker:
        if tuple(map(int, broker.server_facts().version.split(".")[:2])) >= (7, 2):
            pytest.skip("this Redis can tell")

    with (
        App(server.url) as app,
        pytest.raises(ServerUnfit, match=r"cannot tell what is on its disk, .*7\.2"),
    ):
        app.named(ECHO).options(durable=True).submit(1)

    assert submitted(server.url) == 0


@pytest.mark.parametrize("kind", ["redis", "valkey"])
@pytest.mark.parametrize("durable", [True, False], ids=["with a file", "without one"])
def test_a_replica_that_lags_is_said_in_time(pair: Callable[..., Any], kind: str, durable: bool) -> None:
    primary, replica = pair(kind, durable=durable)
    with primary.client() as client:
        client.config_set("appendfsync", "always")
    with App(primary.url, connect_timeout=1.0, durable=True) as app:
        echo = app.named(ECHO)
        echo.submit(1)
        replica.server.freeze()
        began = time.monotonic()
        with pytest.raises(NotReplicated, match=r"after 1 s the server did not have it on a replica"):
            echo.options(id="x").submit(2)
        assert time.monotonic() - began < 5
        replica.server.thaw()
        with primary.client() as client:
            wait_until(lambda: client.wait(1, 100), description="the replica")
        echo.options(id="x").submit(2)
    with replica.client() as client:
        assert client.hget("qw:{default.default}:stats", "submitted") == "2"


def test_a_wait_whose_answer_is_lost_is_taken_up_again_and_queues_nothing_twice(synced: Server) -> None:
    proxy = Proxy(synced.socket_path)
    try:
        with App(proxy.url) as app:
            echo = app.named(ECHO).options(durable=True)
            echo.submit(0)
            proxy.cut_answers(2, after=b"HSET")  # the mark before each wait
            echo.submit(1)
            assert proxy.commands >= 3
    finally:
        proxy.close()

    assert submitted(synced.url) == 2


def test_what_another_server_does_not_know_is_submitted_to_it_again(synced: Server) -> None:
    with Broker(synced.url) as broker, Durable(broker) as durable:
        durable.check()
        durable.keep("default", Line(), [item("a")], given=False)
        synced.kill()
        for kept in synced.directory.glob("appendonly*"):
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        synced.start()

        assert durable.confirm() == ""
        assert broker.peek("default", ["a"])[0].alive


@pytest.mark.parametrize("without", ["", "+role", "+wait", "+waitaof", "+info"])
def test_a_user_needs_four_rights_more_for_it(pair: Callable[..., Any], without: str) -> None:
    primary, _ = pair("valkey")
    words = {"+role", "+wait", "+waitaof", "+info"}
    assert all(word in PAGE.read_text() for word in words)
    grant(primary.server, "producer", *rules()["producer"], *(words - {without}))
    with primary.client() as client:
        client.config_set("appendfsync", "everysec")

    with App(url_of(primary.server, "producer"), namespace=NAMESPACE, durable=True) as app:
        if without:
            with pytest.raises((BrokerError, NotReplicated), match=without.replace("+", "'?") + "'"):
                app.submit(ECHO, 1)
        else:
            app.submit(ECHO, 1)


@pytest.mark.parametrize("more", [(), ("+config|get",)], ids=["not told", "told"])
def test_who_is_told_that_each_write_is_synced_need_not_watch_the_disk(
    new_server: Callable[..., Server], more: tuple[str, ...]
) -> None:
    server = new_server("valkey", "--appendfsync", "always")
    grant(server, "producer", *rules()["producer"], "+role", "+wait", "+waitaof", "+info", *more)

    with App(url_of(server, "producer"), namespace=NAMESPACE, durable=True) as app:
        began = time.monotonic()
        app.submit(ECHO, 1)
        took_s = time.monotonic() - began

    with Broker(server.url) as broker:
        asked = broker.client.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"]
    assert (asked == 0) is bool(more)
    assert more or took_s > 1


def test_durable_is_true_or_false() -> None:
    with pytest.raises(BadOption, match="durable='yes': expected True or False"):
        App(inline=True, durable="yes")  # type: ignore[arg-type]
