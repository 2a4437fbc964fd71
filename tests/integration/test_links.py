"""The producers' own connections, over a unix socket and TCP, and what is left to redis-py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from qworker.broker import Broker
from qworker.broker.calls import command
from qworker.broker.driver import Driven
from qworker.errors import BrokerError, BrokerUnavailable, SubmitUnknown
from qworker.model import Line
from support.brokers import QUEUE, counters, item
from support.proxy import Proxy
from support.servers import Server

MakeServer = Callable[..., Server]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
def served(new_server: MakeServer) -> tuple[Server, int]:
    """A server of this test's own, on a unix socket and on a port."""
    port = free_port()
    return new_server(None, "--port", str(port), durable=False), port


@pytest.fixture(params=["unix", "tcp"])
def broker(request: pytest.FixtureRequest, served: tuple[Server, int]) -> Iterator[Broker]:
    url = served[0].url if request.param == "unix" else f"redis://127.0.0.1:{served[1]}"
    with Broker(url, "t", timeout_s=1.0, instance="me") as made:
        yield made


def say(broker: Broker, *words: str | bytes) -> Any:
    return broker.run(command("say something", *words, parse=lambda reply: reply))


def submit(broker: Broker, *ids: str) -> tuple[str, ...]:
    return broker.submit(QUEUE, Line(), [item(local) for local in ids], given=False).codes


def ours(broker: Broker) -> int:
    listed: bytes = say(broker, "CLIENT", "LIST")
    return listed.count(f"name={broker.name} ".encode())


def test_one_thread_needs_one_connection(broker: Broker) -> None:
    for _ in range(5):
        assert say(broker, "PING") == b"PONG"

    assert ours(broker) == 1


def test_threads_have_one_connection_each_and_their_own_answers(broker: Broker) -> None:
    together = threading.Barrier(8)
    wrong: list[object] = []

    def talk(me: int) -> None:
        together.wait()
        for n in range(200):
            text = f"{me} {n}".encode()
            if (heard := say(broker, "ECHO", text)) != text:
                wrong.append((text, heard))

    threads = [threading.Thread(target=talk, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert ours(broker) <= 8


def test_large_commands_and_answers_pass(broker: Broker) -> None:
    body = bytes(range(256)) * 65_536

    say(broker, "SET", "large", body)

    assert say(broker, "GET", "large") == body


def test_what_was_closed_while_idle_is_replaced_and_nothing_is_sent_twice(
    broker: Broker, served: tuple[Server, int]
) -> None:
    submit(broker, "a")
    with redis.Redis.from_url(served[0].url) as other:
        other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    assert submit(broker, "b") == ("ok",)  # a second sending would have found it there: "same"


def test_a_dead_server_is_unavailable_and_then_served_again(broker: Broker, served: tuple[Server, int]) -> None:
    """Nothing can have been queued, and the error says so, although a connection was there before."""
    submit(broker, "a")
    served[0].kill()

    with pytest.raises(BrokerUnavailable):
        submit(broker, "b")

    served[0].restart()
    assert submit(broker, "c") == ("ok",)
    assert counters(broker)["submitted"] == 1


def test_a_stopped_server_is_given_up_in_time_and_then_served_again(broker: Broker, served: tuple[Server, int]) -> None:
    submit(broker, "a")
    served[0].freeze()
    began = time.monotonic()

    with pytest.raises(SubmitUnknown, match="submit again with the same ids"):
        submit(broker, "b")

    assert time.monotonic() - began < 5 * broker.timeout_s
    served[0].thaw()
    assert submit(broker, "b") in [("ok",), ("same",)]
    assert counters(broker)["submitted"] == 2


def test_an_answer_that_was_cut_is_asked_for_again(one_server: Server) -> None:
    proxy = Proxy(one_server.socket_path)
    with Broker(proxy.url, "t", timeout_s=3.0) as broker:
        submit(broker, "a")
        proxy.cut_answers(1, after=b"EVALSHA")

        assert submit(broker, "b") == ("same",)
        assert counters(broker)["submitted"] == 2
    proxy.close()


def test_an_error_that_leaves_the_connection_in_step_keeps_it(broker: Broker) -> None:
    submit(broker, "a")
    mine = say(broker, "CLIENT", "ID")

    say(broker, "SCRIPT", "FLUSH")
    submit(broker, "b")
    kept = say(broker, "CLIENT", "ID")
    with pytest.raises(BrokerError):
        say(broker, "NONSENSE")

    assert kept == mine
    assert say(broker, "CLIENT", "ID") != mine


def test_a_forked_child_opens_its_own_and_leaves_the_parents_alone(broker: Broker) -> None:
    mine = say(broker, "CLIENT", "ID")

    pid = os.fork()
    if pid == 0:
        theirs = -1
        try:
            theirs = say(broker, "CLIENT", "ID")
            broker.close()
        finally:
            os._exit(0 if theirs not in (mine, -1) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert say(broker, "CLIENT", "ID") == mine


def test_closing_leaves_no_connection_also_not_of_a_call_that_is_under_way(
    broker: Broker, served: tuple[Server, int]
) -> None:
    waits = threading.Thread(target=say, args=(broker, "BLPOP", "key", "0"))
    with redis.Redis.from_url(served[0].url) as other:
        waits.start()
        while not other.info("clients")["blocked_clients"]:
            pass
        broker.close()
        other.lpush("key", "value")
        waits.join()
        while any(one["name"] == broker.name for one in other.client_list()):
            pass


def test_password_and_database_of_the_url_are_used(served: tuple[Server, int]) -> None:
    server, port = served
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "s3:cret")

    for url in (f"unix://:s3%3Acret@{server.socket_path}?db=3", f"redis://default:s3%3Acret@127.0.0.1:{port}/3"):
        with Broker(url, "t") as broker:
            assert b" db=3 " in say(broker, "CLIENT", "LIST")


@pytest.mark.parametrize("password", ["", ":wrong@"])
def test_a_wrong_password_is_said_at_once(served: tuple[Server, int], password: str) -> None:
    with redis.Redis.from_url(served[0].url) as client:
        client.config_set("requirepass", "secret")

    with (
        Broker(f"unix://{password}{served[0].socket_path}", "t") as broker,
        pytest.raises(BrokerError, match=r"does not allow it: .*Check user, password"),
    ):
        say(broker, "SET", "here", "1")


class Answering:
    """A server that sends each connection the same pieces, whatever it is asked, and then nothing more."""

    def __init__(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        self.calls = 0
        self._pieces, self._pause_s = pieces, pause_s
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self.calls += 1
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with link:
            try:
                link.recv(4096)
                for piece in self._pieces:
                    link.sendall(piece)
                    self._ended.wait(self._pause_s)
                link.recv(4096)
            except OSError:
                pass  # the client has had enough

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        (b"?what\r\n", "makes no sense"),
        (b"-ERR max number of clients reached\r\n", "max number of clients reached"),
    ],
)
def test_what_may_pass_is_asked_again_and_then_quoted(piece: bytes, said: str) -> None:
    with Answering(piece) as server, Broker(server.url, "t", timeout_s=0.3) as broker:
        with pytest.raises(BrokerUnavailable, match=said):
            say(broker, "PING")
        assert server.calls > 1


def test_a_server_that_denies_every_connection_is_quoted_at_once() -> None:
    with Answering(b"-DENIED Redis is running in protected mode\r\n") as server, Broker(server.url, "t") as broker:
        with pytest.raises(BrokerError, match="DENIED Redis is running in protected mode"):
            say(broker, "PING")
        assert server.calls == 1


def test_an_answer_may_come_in_pieces() -> None:
    pieces = [bytes([byte]) for byte in b"+OK\r\n$5\r\nhello\r\n"]
    with Answering(*pieces) as server, Broker(server.url, "t") as broker:
        assert say(broker, "GET", "it") == b"hello"


def test_an_answer_that_never_ends_is_given_up_in_time() -> None:
    endless = [b"+OK\r\n$100000\r\n", *[b"x"] * 10_000]
    with Answering(*endless, pause_s=0.01) as server, Broker(server.url, "t", timeout_s=0.3) as broker:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="TimeoutError"):
            say(broker, "GET", "it")
        assert time.monotonic() - began < 10 * broker.timeout_s


def test_tls_is_spoken_through_redis_py(tls: tuple[int, Path]) -> None:
    port, certificate = tls

    with Broker(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}", "t") as broker:
        assert say(broker, "PING") == b"PONG"
        assert isinstance(broker._links._idle[0], Driven)
        with broker.subscribe("me") as inbox:
            assert broker.publish("me", b"hello") == 1
            assert inbox.next(5.0) == b"hello"


def test_a_producer_loads_neither_redis_py_nor_asyncio(url: str, tmp_path: Path) -> None:
    script = tmp_path / "producer.py"
    script.write_text("import sys\nfrom qworker import App\nApp().submit('tasks.f')\nprint(*sys.modules)\n")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"QWORKER_URL": url})

    assert "qworker.broker.links" in done.stdout.split()
    assert not {"redis", "asyncio"} & {*done.stdout.split()}
