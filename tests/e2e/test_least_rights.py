"""Real processes, each as a user with the least rights of its role: all works, and the server denies nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from qworker import App, cli
from support.daemon import Worker
from support.rights import NAMESPACE, ROLES, denied, grant, rules, url_of
from support.servers import Server
from support.waiting import wait_until

# A worker asks once about snapshots, a doctor whether the disk is full, and redis-py tells its name.
SPARED = {"config|get", "ping", "client|setinfo"}


@pytest.fixture
def users(server: Server) -> Iterator[Server]:
    for role in ROLES:
        grant(server, role, *rules()[role])
    yield server
    with redis.Redis.from_url(server.url) as client:
        client.acl_deluser(*ROLES)


def test_a_whole_life_is_denied_nothing(
    users: Server, start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(*argv: str) -> tuple[int, str]:
        code = cli.run((*argv, "--namespace", NAMESPACE))
        return code, capsys.readouterr().out

    worker = start("-c", "2", "--namespace", NAMESPACE, server_url=url_of(users, "worker"))
    monkeypatch.setenv("QWORKER_URL", url_of(users, "viewer"))
    with App(url_of(users, "producer"), namespace=NAMESPACE) as app:
        with app.group() as group:
            kept = group.submit("support.apps.basic.echo", "kept")
        runs = app.submit("support.apps.basic.polite", 60.0)
        wait_until(lambda: runs.status().worker, description="its claim")
        waits = app.named("support.apps.basic.noop").options(delay=60).submit()
        assert kept.result(timeout=10) == "kept"
        assert waits.cancel()

        assert look("status")[0] == 0
        assert look("show", runs.id)[0] == 0
        assert look("show", group.id)[0] == 0
        assert look("dessert")[0] == 0
        assert look("result", kept.id) == (0, '"kept"\n')
        assert look("doctor", "--json")[0] == 0
        assert runs.stop(wait=10)
        assert denied(users) <= SPARED

        refused, _ = look("submit", "support.apps.basic.noop")

    assert refused == 1  # who may only look
    assert not worker.events("redis.refused")
