"""Servers that fall silent, move away or answer what none should: small ones of our own, saying what a test wants."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import hiredis
import pytest

from qworker.broker import AsyncBroker, BellRing, Broker
from qworker.broker.hello import FAULTS
from qworker.errors import BrokerUnavailable

Answers = Callable[[Sequence[bytes]], bytes]


class Fake:
    """A server that answers each command as a function says. While it is `silent` it reads, and says nothing."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.silent = False
        self.heard: list[bytes] = []  # the first word of each command
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            self._links.append(link)
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        reader = hiredis.Reader()
        try:
            while data := link.recv(65_536):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    self.heard.append(command[0])
                    if not self.silent:
                        link.sendall(b"+OK\r\n" if command[0] == b"CLIENT" else self.answers(command))
        except OSError:
            pass
        link.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for link in self._links:
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its own thread has closed it


@pytest.fixture
def fake() -> Iterator[Callable[[Answers], Fake]]:
    made: list[Fake] = []

    def fake(answers: Answers) -> Fake:
        made.append(Fake(answers))
        return made[-1]

    yield fake
    for each in made:
        each.close()


def word(text: bytes | str | int) -> bytes:
    data = str(text).encode() if not isinstance(text, bytes) else text
    return b"$%d\r\n%s\r\n" % (len(data), data)


def at(port: int) -> bytes:
    """What a sentinel answers."""
    return b"*2\r\n" + word("127.0.0.1") + word(port)


def primary(command: Sequence[bytes]) -> bytes:
    """What a primary without queues answers."""
    return b"*1\r\n" + word("master") if command[0] == b"ROLE" else b"*0\r\n"


@pytest.fixture
def watched(fake: Callable[[Answers], Fake]) -> tuple[str, Fake, Callable[[], None]]:
    """The URL of a sentinel, the primary that it names, and what to call when that is to be silent and replaced."""
    first, second = fake(primary), fake(primary)
    named = [first]

    def fail_over() -> None:
        first.silent, named[0] = True, second

    sentinel = fake(lambda _: at(named[0].port))
    return f"redis+sentinel://127.0.0.1:{sentinel.port}/shop", first, fail_over


def test_after_one_silence_no_idle_connection_is_tried_and_the_new_primary_answers(watched) -> None:
    """The old one's host is gone without a word: each of its connections would cost an attempt."""
    url, first, fail_over = watched
    with Broker(url, timeout_s=3) as broker:
        for link in [broker._links.make() for _ in range(4)]:
            broker._links.give(link)
        fail_over()

        assert broker.queues() == ()

    assert first.heard.count(b"SMEMBERS") == 1


def test_after_one_silence_a_worker_tries_no_idle_connection_either(watched) -> None:
    url, first, fail_over = watched

    async def main() -> None:
        async with AsyncBroker(url, timeout_s=3) as broker:
            for connection in [await broker._own.take() for _ in range(4)]:
                broker._own.give(connection)
            fail_over()

            assert await broker.queues() == ()

    asyncio.run(main())
    assert first.heard.count(b"SMEMBERS") == 1


def test_a_call_that_is_given_up_leaves_no_idle_connection_to_the_next(fake) -> None:
    server = fake(primary)
    with Broker(f"redis://127.0.0.1:{server.port}", timeout_s=1.5) as broker:
        for link in [broker._links.make() for _ in range(4)]:
            broker._links.give(link)
        server.silent, broker.timeout_s = True, 0.1  # it is over before its first try is
        with pytest.raises(BrokerUnavailable):
            broker.queues()

        assert broker._links._idle == []


def test_the_doorbell_is_waited_for_where_its_slot_has_moved(fake) -> None:
    """The map of the bell is not that of the calls: nobody else forgets it."""
    has: list[Fake] = []

    def answers(command: Sequence[bytes]) -> bytes:
        if command[0] == b"CLUSTER":
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + word("127.0.0.1") + b":%d\r\n" % has[0].port
        return b"-MOVED 1 127.0.0.1:1\r\n"

    old = fake(answers)
    new = fake(lambda command: b"*2\r\n" + word(command[1]) + word("1"))
    has.append(old)

    async def main() -> None:
        async with AsyncBroker(f"redis+cluster://127.0.0.1:{old.port}", "t") as broker:
            assert await broker.wait_bell(["q"], ["default"], 1) is None
            has[0] = new
            assert await broker.wait_bell(["q"], ["default"], 1) == BellRing("q", "default")

    asyncio.run(main())
    assert old.heard.count(b"BLPOP") == 1


async def awaited(url: str) -> str:
    async with AsyncBroker(url) as broker:
        with pytest.raises(FAULTS) as said:
            await broker._own.take()
    return str(said.value)


def refusals(url: str) -> list[str]:
    """What is wrong, as either broker's first try finds; others may only run out of time."""
    with Broker(url) as broker, pytest.raises(FAULTS) as said:
        broker._links.make()
    with Broker(url, timeout_s=0.1) as broker, pytest.raises(BrokerUnavailable):
        broker.queues()
    return [str(said.value), asyncio.run(awaited(url))]


@pytest.mark.parametrize("role", [b":5\r\n", b"*0\r\n", b"$-1\r\n", b"*1\r\n$5\r\nslave\r\n"])
def test_what_says_that_it_is_no_primary_or_nothing_of_that_kind_is_none_and_no_password_is_told(fake, role) -> None:
    server = fake(lambda command: role if command[0] == b"ROLE" else b"+OK\r\n")
    sentinel = fake(lambda _: at(server.port))

    for said in refusals(f"redis+sentinel://127.0.0.1:{sentinel.port}/shop?password=s3cret&username=me"):
        assert f"the server at 127.0.0.1:{server.port}, named as primary, is none" in said
        assert "s3cret" not in said


@pytest.mark.parametrize("port", [0, 65_536, 99_999])
def test_a_port_that_there_cannot_be_is_no_address(fake, port: int) -> None:
    sentinel = fake(lambda _: at(port))
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + word("127.0.0.1") + b":%d\r\n" % port
    node = fake(lambda _: slots)

    for said in refusals(f"redis+sentinel://127.0.0.1:{sentinel.port}/shop"):
        assert "it answers with what is no address" in said
    for said in refusals(f"redis+cluster://127.0.0.1:{node.port}"):
        assert "it answers with what is no map of slots" in said
