"""The proxy of the tests does to the wire what it says, and nothing else: else its faults would prove nothing."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest
import redis

from support.proxy import Do, Proxy
from support.servers import Server
from support.waiting import wait_until

PING, PONG = b"PING\r\n", b"+PONG\r\n"


@pytest.fixture(params=["tcp", "unix"])
def proxy(request: pytest.FixtureRequest, one_server: Server) -> Iterator[Proxy]:
    proxy = Proxy(one_server.socket_path, tcp=request.param == "tcp")
    yield proxy
    proxy.close()


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], socket.socket]]:
    made: list[socket.socket] = []

    def connect() -> socket.socket:
        link = socket.socket(socket.AF_INET if proxy.port else socket.AF_UNIX)
        made.append(link)
        link.settimeout(5)
        link.connect(("127.0.0.1", proxy.port) if proxy.port else proxy.path)
        return link

    yield connect
    for link in made:
        link.close()


def silent(link: socket.socket, for_s: float = 0.05) -> bool:
    return not select.select([link], [], [], for_s)[0]


def ask(link: socket.socket, words: bytes = PING) -> bytes:
    link.sendall(words)
    return link.recv(1 << 16)


def ended(link: socket.socket) -> bool:
    """Whether the other end has closed or reset it; waits for that."""
    try:
        return link.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


def test_everything_passes_unchanged(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    with redis.Redis.from_url(proxy.url) as client:
        value = os.urandom(3 << 20)
        client.set("k", value)
        assert client.get("k") == value
    assert ask(connect()) == PONG
    assert proxy.bytes["requests"] > len(value) < proxy.bytes["answers"]


@pytest.mark.parametrize(
    ("do", "answer", "applied"),
    [("cut before", b"", 0), ("cut within", b"", 0), ("cut answer", b"", 1), ("cut within answer", b":3\r", 1)],
)
def test_the_nth_match_is_cut_where_the_test_says(
    proxy: Proxy, connect: Callable[[], socket.socket], one_server: Server, do: Do, answer: bytes, applied: int
) -> None:
    rule = proxy.on(b"INCR n", do, nth=3)
    link = connect()
    assert [ask(link, b"INCR m\r\n"), ask(link, b"INCR n\r\n"), ask(link, b"INCR n\r\n")] == [
        b":1\r\n", b":1\r\n", b":2\r\n",
    ]  # fmt: skip

    link.sendall(b"INCR n\r\n")
    got = b"".join(iter(lambda: link.recv(64), b""))

    assert (got, rule.seen) == (answer, 3)
    with redis.Redis(unix_socket_path=one_server.socket_path) as client:
        assert client.get("n") == str(2 + applied).encode()
    assert ask(connect(), b"INCR n\r\n") == f":{3 + applied}\r\n".encode(), "once"


def test_a_match_is_found_across_the_edges_of_chunks(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    rule = proxy.on(b"SECRET", "cut before")
    link = connect()
    link.sendall(b"ECHO SEC")
    wait_until(lambda: proxy.bytes["requests"] == 8, description="the first half to be forwarded")

    link.sendall(b"RET\r\n")

    assert ended(link)
    assert rule.seen == 1


def test_a_muted_call_is_done_and_its_link_is_silent_for_good(
    proxy: Proxy, connect: Callable[[], socket.socket], one_server: Server
) -> None:
    proxy.on(b"INCR", "mute")
    link = connect()
    link.sendall(b"INCR n\r\n")

    with redis.Redis(unix_socket_path=one_server.socket_path) as client:
        wait_until(lambda: client.get("n") == b"1", description="the call to be done")
    link.sendall(PING)
    assert silent(link)
    assert ask(connect()) == PONG


def test_half_of_an_answer_stalls_until_it_is_released(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    proxy.on(b"abcdefgh", "stall within", way="answers")
    link = connect()

    first = ask(link, b"ECHO abcdefgh\r\n")
    assert silent(link)
    proxy.release()

    assert first + link.recv(64) == b"$8\r\nabcdefgh\r\n"


def test_what_is_held_comes_later_whole(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    link = connect()
    assert ask(link) == PONG
    proxy.hold("answers")
    link.sendall(PING)
    assert silent(link)

    proxy.release()

    assert link.recv(64) == PONG


def test_what_falls_into_a_black_hole_is_gone_and_its_link_too_and_others_work_after_it(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    link, spared = connect(), connect()
    assert ask(spared) == PONG
    proxy.blackhole("answers")
    link.sendall(PING)
    wait_until(lambda: proxy.bytes["requests"] == 12, description="the request to be forwarded")
    assert silent(link)
    proxy.release()

    link.sendall(PING)

    assert silent(link)
    assert ask(spared) == PONG
    assert ask(connect()) == PONG


def test_a_half_open_link_takes_all_and_says_nothing_while_the_server_has_closed_it(
    proxy: Proxy, connect: Callable[[], socket.socket], one_server: Server
) -> None:
    link = connect()
    assert ask(link, b"CLIENT SETNAME me\r\n") == b"+OK\r\n"

    proxy.half_open()

    with redis.Redis(unix_socket_path=one_server.socket_path) as client:
        wait_until(
            lambda: "me" not in [c["name"] for c in client.client_list()], description="the server to see its end"
        )
    link.sendall(PING)
    link.sendall(PING)
    assert silent(link)
    assert ask(connect()) == PONG


def test_the_server_does_not_notice_that_a_client_has_gone(
    proxy: Proxy, connect: Callable[[], socket.socket], one_server: Server
) -> None:
    proxy.keep_far_ends()
    link = connect()
    assert ask(link, b"CLIENT SETNAME me\r\n") == b"+OK\r\n"

    link.close()
    wait_until(lambda: proxy.links == 0, description="the proxy to see the client's end")

    with redis.Redis(unix_socket_path=one_server.socket_path) as client:
        assert "me" in [c["name"] for c in client.client_list()]


def test_a_trickle_brings_everything_in_pieces(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    proxy.trickle(1, every_s=0.001)
    link = connect()
    link.sendall(b"ECHO abcdefgh\r\n")

    pieces = [link.recv(64)]
    while not b"".join(pieces).endswith(b"h\r\n"):
        pieces.append(link.recv(64))

    assert b"".join(pieces) == b"$8\r\nabcdefgh\r\n"
    assert len(pieces) > 3
    proxy.smooth()
    assert ask(link) == PONG


def test_what_a_trickle_has_begun_goes_at_once_when_it_is_over(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    proxy.trickle(1, "answers", every_s=0.05)
    link = connect()
    link.sendall(b"ECHO " + b"x" * 10_000 + b"\r\n")  # by crumbs it takes eight minutes
    assert link.recv(1) == b"$"

    proxy.smooth()

    got = b""
    while not got.endswith(b"x\r\n"):
        got += link.recv(1 << 16)
    assert len(got) > 10_000


def test_links_are_reset_and_refused_and_taken_again(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    link = connect()
    assert ask(link) == PONG

    proxy.reset()
    assert ended(link)
    assert ask(connect()) == PONG
    proxy.refuse()
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        connect()
    proxy.accept()

    assert ask(connect()) == PONG
