"""Producer, worker and command line with a server that speaks TLS: a whole life, hang-ups, and wrong papers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from conftest import need
from qworker import App, cli
from qworker.errors import BrokerError
from support.daemon import Worker, spawn_worker
from support.servers import Kind
from support.tls import NoTls, Papers, TlsServer, start_tls
from support.waiting import wait_until

KINDS = ["redis", pytest.param("valkey", marks=pytest.mark.valkey)]
ECHO = "support.apps.basic.echo"


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    try:
        return Papers(tmp_path_factory.mktemp("papers"))
    except NoTls as why:
        pytest.skip(str(why))


@pytest.fixture
def make(tmp_path: Path, papers: Papers) -> Iterator[Callable[..., TlsServer]]:
    made: list[TlsServer] = []

    def make(kind: Kind, **options: bool) -> TlsServer:
        need(kind)
        try:
            made.append(start_tls(kind, tmp_path / f"tls-{len(made)}", papers, **options))
        except NoTls as why:
            pytest.skip(str(why))  # in CI, too: one of the two servers has it
        return made[-1]

    yield make
    for each in made:
        each.server.stop()


@pytest.fixture(params=KINDS)
def tls(request: pytest.FixtureRequest, make: Callable[..., TlsServer]) -> TlsServer:
    return make(request.param)


def test_a_whole_life_over_tls(tls: TlsServer, start: Callable[..., Worker]) -> None:
    start("-c", "1", server_url=tls.url)
    with App(tls.url) as app:
        assert app.submit(ECHO, "by one").result(timeout=10) == "by one"
        echo = app.named(ECHO)
        many = echo.submit_many([echo.call(n) for n in range(300)])
        assert [future.result(timeout=10) for future in many] == [*range(300)]
        large = "x" * 500_000
        assert app.submit(ECHO, large).result(timeout=10) == large
        stopped = app.submit("support.apps.basic.polite", 60.0)
        wait_until(lambda: stopped.status().worker, description="its claim")
        assert stopped.stop(wait=10)
        with app.group() as group:
            inside = group.submit(ECHO, 1)
        assert inside.result() == 1

    assert cli.run(("status", "--url", tls.url)) == 0
    assert cli.run(("doctor", "--url", tls.url)) == 0


def test_connections_that_the_server_hangs_up_while_idle_cost_nothing_but_another(
    tls: TlsServer, start: Callable[..., Worker]
) -> None:
    start("-c", "1", server_url=tls.url)
    with App(tls.url) as app, redis.Redis.from_url(tls.admin) as admin:
        for n in range(5):
            assert app.submit(ECHO, n).result(timeout=10) == n
            for kind in ("normal", "pubsub"):
                admin.client_kill_filter(_type=kind, skipme=True)

        assert app.submit(ECHO, "after").result(timeout=10) == "after"
        assert admin.hget("qw:{default.default}:stats", "submitted") == b"6"


def test_who_has_to_show_a_certificate_shows_it(
    make: Callable[..., TlsServer], papers: Papers, start: Callable[..., Worker]
) -> None:
    tls = make("redis", clients=True)
    certificate, key = papers.client
    url = f"{tls.url}&ssl_certfile={certificate}&ssl_keyfile={key}"
    start("-c", "1", server_url=url)

    with App(url) as app:
        assert app.submit(ECHO, 1).result(timeout=10) == 1
    with App(tls.url, connect_timeout=0.5) as app, pytest.raises(BrokerError, match="cannot reach the server"):
        app.submit(ECHO, 1)


@pytest.mark.parametrize("wrong", ["another CA", "another host", "no CA"])
def test_a_server_that_is_not_to_be_trusted_is_refused_at_once(
    make: Callable[..., TlsServer], tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = make("redis")
    url = {
        "another CA": tls.trusting(Papers(tmp_path / "other", "other")),
        "another host": tls.trusting(tls.papers, "127.0.0.1"),
        "no CA": f"rediss://localhost:{tls.port}/0",
    }[wrong]
    began = time.monotonic()

    with App(url) as app, pytest.raises(BrokerError, match=r"is not to be trusted: .*ssl_ca_certs=") as caught:
        app.submit(ECHO, 1)
    assert not isinstance(caught.value, ConnectionError)
    assert cli.run(("status", "--url", url)) == 1
    assert "is not to be trusted" in capsys.readouterr().err
    worker = spawn_worker(url, "support.apps.basic:app", log_dir=tmp_path, env=dict(os.environ))
    assert worker.wait() == 1
    assert "is not to be trusted" in worker.log()
    assert time.monotonic() - began < 30
