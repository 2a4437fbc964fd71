"""Workers on another host (a network namespace), whose link to Redis goes down: no FIN, no RST, only silence."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from support.daemon import Worker
from support.handover import late_s
from support.machine import Namespace
from support.promised import PROMISES, bound, runs, starts
from support.servers import Server
from support.waiting import wait_until

LEASE_S = 2.0
LEASE = {"QWORKER_LEASE": str(LEASE_S)}


@pytest.fixture
def other_host() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.fixture
def own(other_host: Namespace, new_server: Callable[..., Server]) -> Server:
    """A server that the other host reaches by TCP."""
    with socket.create_server((other_host.here, 0)) as free:
        port = free.getsockname()[1]
    server = new_server(None, "--port", str(port), "--bind", other_host.here, "--protected-mode", "no")
    server.tcp_url = f"redis://{other_host.here}:{port}/0"  # type: ignore[attr-defined]
    return server


@pytest.fixture
def serve(start: Callable[..., Worker], other_host: Namespace, own: Server) -> Callable[..., Worker]:
    """Start a worker, on the other host unless it is to be `here`."""

    def serve(*args: str, here: bool = False) -> Worker:
        options = {} if here else {"prefix": other_host.prefix}
        url = own.url if here else own.tcp_url  # type: ignore[attr-defined]
        return start(*args, target=PROMISES, server_url=url, env=LEASE, **options)

    return serve


def test_a_host_cut_off_for_longer_than_the_lease_loses_its_tasks_to_another_and_its_late_outcomes_are_refused(
    serve, own, other_host, execution_log, tmp_path
) -> None:
    with bound(own.url) as tasks:
        away = serve("-c", "1")
        ends_away = tasks.until_let_go.submit(str(tmp_path / "gate"))
        wait_until(lambda: len(runs(execution_log)) == 1, description="the first to run there")
        here = serve("-c", "1", here=True)
        other_host.down()

        # Not before the lease is over. Promised is a second, and an idle worker asks when it ends.
        assert 0 <= late_s(own.url, ends_away.id) < 1.0
        wait_until(lambda: len(runs(execution_log)) == 2, description="the second start")
        for run in runs(execution_log):
            (tmp_path / f"gate-{run.pid}").touch()
        recorded = ends_away.result(timeout=10)
        away.wait_event("lease.uncertain")
        assert starts(execution_log) == {ends_away.id: 2}
        here.term()
        assert here.wait() == 0
        runs_on = tasks.nap.submit(0.0, "after")
        other_host.up()

        assert runs_on.result(timeout=15) == "after", "it serves again by itself"
        wait_until(
            lambda: away.events("outcome.refused", task=ends_away.id) or away.events("claim.lost"),
            description="the late outcome to be refused",
        )
        assert away.events("redis.unreachable")
        away.wait_event("redis.back")
        assert tasks.app.future(ends_away.id).result(timeout=10) == recorded


@pytest.mark.slow
def test_a_link_down_for_less_than_the_lease_costs_nothing(serve, own, other_host, execution_log) -> None:
    with bound(own.url) as tasks:
        away = serve("-c", "2", "--window", "4")
        serve("-c", "1", here=True)
        futures = [tasks.nap.submit(0.2, n) for n in range(30)]
        wait_until(lambda: len(runs(execution_log)) >= 8, description="some to run")
        for _ in range(2):
            other_host.down()
            away.wait_event("redis.unreachable")
            other_host.up()
            before = len(runs(execution_log))
            wait_until(lambda before=before: len(runs(execution_log)) > before, description="more to run")

        assert [future.result(timeout=20) for future in futures] == list(range(30))
        assert starts(execution_log) == {future.id: 1 for future in futures}
        assert not away.events("claim.lost")


def test_a_stop_that_was_made_while_the_link_was_down_arrives_when_it_is_up(
    serve, own, other_host, execution_log
) -> None:
    """The subscription is one of those connections that died without a word; a renewal brings the stop."""
    with bound(own.url) as tasks:
        serve("-c", "1")
        future = tasks.polite.submit(60)
        wait_until(lambda: runs(execution_log), description="its start")
        other_host.down()
        future.stop(wait=0)
        other_host.up()
        up = time.monotonic()

        wait_until(lambda: runs(execution_log)[0].asked, timeout=10, description="the task to see the stop")

        assert runs(execution_log)[0].asked - up < 2.5
        assert starts(execution_log) == {future.id: 1}
