"""The worker's own connections, on asyncio's loop and on uvloop, and what is left to redis-py."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from qworker.broker import AsyncBroker
from qworker.broker.adapted import Adapted
from qworker.broker.calls import command
from qworker.broker.hello import Address
from qworker.errors import BrokerError, BrokerUnavailable
from support.servers import Server

MakeServer = Callable[..., Server]
Main = Callable[[], Awaitable[Any]]


@pytest.fixture(params=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Run a coroutine function on each kind of loop."""
    if request.param == "asyncio":
        return lambda main: asyncio.run(main())  # type: ignore[arg-type]
    uvloop = pytest.importorskip("uvloop")

    def run(main: Main) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())  # type: ignore[arg-type]

    return run


async def say(broker: AsyncBroker, *words: str | bytes) -> Any:
    return await broker.run(command("say something", *words, parse=lambda reply: reply))


def guarded(new_server: MakeServer, password: str) -> Server:
    """A server that asks for a password."""
    server: Server = new_server(None, durable=False)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", password)
    return server


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://box", ("", "box", 6379, 0, "", "")),
        ("redis://", ("", "localhost", 6379, 0, "", "")),
        ("redis://me:p%40ss@[::1]:7000/3", ("", "::1", 7000, 3, "me", "p@ss")),
        ("redis://:pw@box/1?db=2", ("", "box", 6379, 2, "", "pw")),
        ("unix:///run/a%20b.sock", ("/run/a b.sock", "localhost", 6379, 0, "", "")),
        ("unix://:pw@/run/x.sock?db=4", ("/run/x.sock", "localhost", 6379, 4, "", "pw")),
        ("rediss://box", None),
        ("redis://box?socket_keepalive=no", None),
        ("redis://me@box", None),
    ],
)
def test_a_url_is_understood_or_left_to_redis_py(url: str, address: tuple[Any, ...] | None) -> None:
    assert Address.of(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:p%40ss@box:7000/3",
        "redis://:pw@box/1?db=2",
        "redis://box",
        "unix:///run/a%20b.sock",
        "unix://:pw@/run/x.sock?db=4",
    ],
)
def test_a_url_means_what_it_means_to_redis_py(url: str) -> None:
    theirs = redis.ConnectionPool.from_url(url).connection_kwargs
    ours = Address.of(url)

    assert ours is not None
    if ours.path:
        assert ours.path == theirs["path"]
    else:
        assert (ours.host, ours.port) == (theirs["host"], theirs.get("port", 6379))
    assert (ours.db, ours.user, ours.password) == (
        theirs.get("db", 0),
        theirs.get("username", ""),
        theirs.get("password", ""),
    )


def test_password_and_database_of_the_url_are_used(new_server: MakeServer, go: Callable[[Main], Any]) -> None:
    server = guarded(new_server, "s3:cret")

    async def main() -> None:
        async with AsyncBroker(f"unix://:s3%3Acret@{server.socket_path}?db=3", "t") as broker:
            await say(broker, "SET", "here", "1")
            assert b" db=3 " in await say(broker, "CLIENT", "LIST")

    go(main)


@pytest.mark.parametrize("password", ["", ":wrong@"])
def test_a_wrong_password_is_said_at_once(new_server: MakeServer, go: Callable[[Main], Any], password: str) -> None:
    server = guarded(new_server, "secret")

    async def main() -> None:
        async with AsyncBroker(f"unix://{password}{server.socket_path}", "t") as broker:
            with pytest.raises(BrokerError, match=r"does not allow it: .*Check user, password"):
                await say(broker, "SET", "here", "1")

    go(main)


def test_a_password_for_a_server_that_has_none_is_said_at_once(server: Server, go: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with AsyncBroker(f"unix://:pw@{server.socket_path}", "t") as broker:
            with pytest.raises(BrokerError, match=r"does not allow it: .*without any password configured"):
                await say(broker, "PING")

    go(main)


def test_large_commands_and_answers_pass(server: Server, go: Callable[[Main], Any]) -> None:
    body = bytes(range(256)) * 65_536

    async def main() -> None:
        async with AsyncBroker(server.url, "t") as broker:
            await say(broker, "SET", "large", body)
            assert await say(broker, "GET", "large") == body

    go(main)


def test_a_connection_is_used_again_and_calls_at_once_have_one_each(server: Server, go: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with AsyncBroker(server.url, "t", instance="me") as broker:
            for _ in range(5):
                await say(broker, "PING")
            alone = (await say(broker, "CLIENT", "LIST")).count(b"name=qw:worker:me")
            await asyncio.gather(*(say(broker, "PING") for _ in range(3)))
            together = (await say(broker, "CLIENT", "LIST")).count(b"name=qw:worker:me")
        assert (alone, together) == (1, 3)

    go(main)


def test_a_broken_connection_is_replaced(server: Server, go: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with AsyncBroker(server.url, "t") as broker, AsyncBroker(server.url, "t") as other:
            await say(broker, "PING")
            await say(other, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert await say(broker, "PING") == b"PONG"

    go(main)


class Nonsense:
    """A server that answers nonsense."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            with link:
                link.recv(4096)
                link.sendall(b"?what\r\n")
                link.recv(4096)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_an_answer_that_makes_no_sense_is_a_broken_connection(tmp_path: Path, go: Callable[[Main], Any]) -> None:
    nonsense = Nonsense(tmp_path / "s")

    async def main() -> None:
        async with AsyncBroker(f"unix://{tmp_path}/s", "t", timeout_s=0.3) as broker:
            with pytest.raises(BrokerUnavailable, match="makes no sense"):
                await say(broker, "PING")

    go(main)
    nonsense.close()


def test_tls_is_spoken_through_redis_py(tls: tuple[int, Path], go: Callable[[Main], Any]) -> None:
    port, certificate = tls

    async def main() -> None:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"
        async with AsyncBroker(url, "t") as broker:
            assert await say(broker, "PING") == b"PONG"
            assert isinstance(await broker._own.take(), Adapted)
            assert await broker.wait_bell(["q"], ["default"], 0.01) is None

    go(main)


def test_a_worker_loads_no_redis_py() -> None:
    code = "import sys, qworker.worker.daemon; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "redis" not in loaded
    assert "qworker.broker.aio" in loaded


class LastWords:
    """What answers every connection by an error, once, and closes it, as a server does that takes no more clients."""

    def __init__(self, words: bytes) -> None:
        self.words = words
        self.calls = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        writer.write(self.words)
        await writer.drain()
        await reader.read(1000)
        writer.close()


@pytest.mark.parametrize("user", ["", ":secret@"])
def test_a_server_that_has_too_many_clients_is_asked_again(go: Callable[[Main], Any], user: str) -> None:
    full = LastWords(b"-ERR max number of clients reached\r\n")

    async def main() -> None:
        server = await asyncio.start_server(full, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, AsyncBroker(f"redis://{user}127.0.0.1:{port}", "t", timeout_s=0.6) as broker:
            with pytest.raises(BrokerUnavailable, match="max number of clients reached"):
                await say(broker, "PING")

    go(main)
    assert full.calls > 1


def test_a_server_that_denies_every_connection_is_quoted_at_once(go: Callable[[Main], Any]) -> None:
    denies = LastWords(b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n")

    async def main() -> None:
        server = await asyncio.start_server(denies, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, AsyncBroker(f"redis://127.0.0.1:{port}", "t") as broker:
            with pytest.raises(BrokerError, match="DENIED Redis is running in protected mode"):
                await say(broker, "PING")

    go(main)
    assert denies.calls == 1


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.2 at which nobody answers, not even by a refusal; it is free at 127.0.0.1."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.2", 0))
        hole.listen(0)
        port: int = hole.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # more than the backlog
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.2", port))
        yield port
        for each in waiting:
            each.close()


def resolve(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have `box` mean these addresses, on the running loop. uvloop looks up addresses, too."""

    async def found(name: str, port: int, **_: Any) -> list[Any]:
        named = hosts if name == "box" else (name,)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)) for host in named]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)


@pytest.mark.parametrize("hosts", [("127.0.0.2", "127.0.0.1"), ("127.0.0.1", "127.0.0.2"), ("127.0.0.3", "127.0.0.1")])
def test_a_second_address_of_a_host_is_tried_within_the_same_attempt(
    new_server: MakeServer,
    go: Callable[[Main], Any],
    silent_port: int,
    monkeypatch: pytest.MonkeyPatch,
    hosts: tuple[str, ...],
) -> None:
    """The first is silent, the second is, the first refuses."""
    new_server(None, "--bind", "127.0.0.1", "--port", str(silent_port), durable=False)

    async def main() -> None:
        resolve(monkeypatch, *hosts)
        async with AsyncBroker(f"redis://box:{silent_port}", "t", timeout_s=6) as broker:
            begun = time.monotonic()
            assert await say(broker, "PING") == b"PONG"
            assert time.monotonic() - begun < 1.9  # one attempt is two seconds

    go(main)


def test_when_no_address_of_a_host_answers_the_last_reason_is_told(
    go: Callable[[Main], Any], silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        resolve(monkeypatch, "127.0.0.3", "127.0.0.4")
        async with AsyncBroker(f"redis://box:{silent_port}", "t", timeout_s=0.3) as broker:
            with pytest.raises(BrokerUnavailable, match=r"ConnectionRefusedError: .*127\.0\.0\.[34]"):
                await say(broker, "PING")

    go(main)
