"""`current.guard`: when closers run, how often, and when they no longer may; and how things are closed."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing, suppress
from http.client import HTTPConnection

import pytest

from qworker import context, guards, shields
from qworker.closers import closer_of
from qworker.context import Run
from qworker.current_task import current
from qworker.errors import TaskInterrupt
from support.slots import FakeSlot, occupied
from support.waiting import wait_until


@pytest.fixture
def slot():
    with occupied(FakeSlot()) as slot:
        yield slot
    assert not guards._guards


class Spy:
    """Something with a close() that counts."""

    def __init__(self) -> None:
        self.closed: list[float] = []

    def close(self) -> None:
        self.closed.append(time.monotonic())


class Query(Spy):
    """Something as a database connection: to close it is to cancel what runs now."""

    cursor = interrupt = Spy.close


def wait_closed(spy, times=1):
    wait_until(lambda: len(spy.closed) >= times, description="it is closed")


def test_asked_it_is_closed_once_and_the_block_is_not_left_as_if_nothing_had_happened(slot):
    spy = Spy()
    with pytest.raises(TaskInterrupt), current.guard(spy) as given:
        assert given is spy
        slot.event.set()
        wait_closed(spy)
    assert len(spy.closed) == 1


def test_an_exception_that_the_closing_leads_to_goes_its_way(slot):
    spy = Spy()
    with pytest.raises(ConnectionError), current.guard(spy):
        slot.event.set()
        wait_closed(spy)
        raise ConnectionError


def test_left_or_released_it_is_closed_by_nobody(slot):
    left, released, ended = Spy(), Spy(), Spy()
    with current.guard(left):
        pass
    current.guard(released).release()
    token = context.enter(Run("q:2", "t", 1, 1, 1, 0, slot))
    current.guard(ended)
    context.leave(token)

    slot.event.set()
    probe = Spy()
    current.guard(probe)
    wait_closed(probe)

    assert left.closed == released.closed == ended.closed == []


def test_the_last_is_closed_first(slot):
    order = []
    for name in "abc":
        current.guard(lambda name=name: order.append(name))

    slot.event.set()

    wait_until(lambda: len(order) == 3, description="all are closed")
    assert order == ["c", "b", "a"]


def test_under_a_shield_nothing_is_closed_until_it_is_over(slot):
    spy = Spy()
    current.guard(spy)
    with suppress(TaskInterrupt), current.shield(5):
        slot.event.set()
        current.sleep(0.1)
        assert spy.closed == []

    wait_closed(spy)


def test_what_ends_only_the_present_is_asked_again_with_growing_pauses(slot):
    query = Query()
    with suppress(TaskInterrupt), current.guard(query):
        slot.event.set()
        wait_closed(query, times=3)

    assert query.closed[2] - query.closed[0] >= 0.14


def test_a_block_waits_for_its_closer_before_it_is_left(slot):
    began, done = threading.Event(), threading.Event()

    def close():
        began.set()
        time.sleep(0.1)
        done.set()

    with suppress(TaskInterrupt), current.guard(close):
        slot.event.set()
        assert began.wait(10)
    assert done.is_set()


def test_a_closer_that_hangs_holds_up_no_other_task(slot):
    gate = threading.Event()
    current.guard(gate.wait)
    slot.event.set()
    other = FakeSlot()
    spy = Spy()
    token = context.enter(Run("q:2", "t", 1, 1, 1, 0, other))
    current.guard(spy)

    other.event.set()

    wait_closed(spy)
    context.leave(token)
    gate.set()


def test_a_closer_may_release_its_own_guard(slot):
    done = threading.Event()

    def close():
        guard.release()
        done.set()

    guard = current.guard(close)
    slot.event.set()

    assert done.wait(10)
    assert shields.must_end(slot)


def test_in_a_plain_call_it_does_nothing_and_starts_no_thread():
    spy = Spy()
    with current.guard(spy) as given:
        assert given is spy

    assert spy.closed == []
    assert not guards._guards


def test_what_cannot_be_closed_is_refused(slot):
    with pytest.raises(
        TypeError, match=r"does not know how to close something of type int: it has no close\(\); give it a"
    ):
        current.guard(5)


# ── how things are closed ────────────────────────────────────────────────────────────────────────────────────────


def blocked(call):
    """Run `call` in a thread; returns the thread, and what it raises or returns."""
    result = []
    begun = threading.Event()

    def work():
        begun.set()
        try:
            result.append(call())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    return thread, result


def test_a_listening_socket_wakes_who_waits_in_accept():
    listener = socket.create_server(("127.0.0.1", 0))
    thread, result = blocked(listener.accept)

    wait_until(lambda: not closer_of(listener).close() and not thread.is_alive(), description="accept returns")

    assert isinstance(result[0], OSError)


def test_a_process_that_leads_no_group_gets_term_itself():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])

    closer_of(process).close()

    assert process.wait(10) == -15


def test_a_process_that_heeds_no_term_is_killed():
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()

        closer_of(process).close()

        assert process.wait(10) == -9
    closer_of(process).close()  # it is gone: nothing is signalled


def test_a_connection_that_can_be_interrupted_is_not_closed():
    with closing(sqlite3.connect(":memory:")) as database:
        closer = closer_of(database)
        assert closer.repeats

        closer.close()

        assert database.execute("SELECT 1").fetchone() == (1,)


@pytest.fixture
def silent_server():
    """An HTTP server that sends the beginning of a body, or not even that, and then nothing."""
    asked, over = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/stream":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
                self.wfile.flush()
            asked.set()
            over.wait(30)
            self.close_connection = True

        def log_message(self, *_args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_args):
            pass  # it writes into connections that were cut off

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        over.set()
        server.shutdown()
        thread.join()


def in_a_guard(slot, client, call, asked):
    """Block in `call` under a guard of `client`, ask when the server has the request; returns what it raises."""
    threading.Thread(target=lambda: asked.wait(10) and slot.event.set()).start()
    before = time.monotonic()
    with pytest.raises(BaseException) as caught, current.guard(client):
        call()
    assert time.monotonic() - before < 10
    return caught.value


def test_a_connection_of_the_standard_library_is_cut_off(slot, silent_server):
    url, asked = silent_server
    connection = HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", "/")

    error = in_a_guard(slot, connection, connection.getresponse, asked)

    assert isinstance(error, ConnectionError | ValueError | AttributeError | TaskInterrupt)


@pytest.mark.parametrize("path", ["/", "/stream"])
def test_a_requests_session_is_cut_off_in_the_middle_of_a_call(slot, silent_server, path):
    requests = pytest.importorskip("requests", reason="requests is not installed: pip install '.[dev]'")
    url, asked = silent_server
    with requests.Session() as session:
        session.trust_env = False
        error = in_a_guard(slot, session, lambda: session.get(url + path).content, asked)

    assert isinstance(error, requests.exceptions.RequestException)


@pytest.mark.parametrize("path", ["/", "/stream"])
def test_an_httpx_client_is_cut_off_in_the_middle_of_a_call(slot, silent_server, path):
    httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install '.[dev]'")
    url, asked = silent_server
    with httpx.Client(trust_env=False, timeout=None) as client:
        error = in_a_guard(slot, client, lambda: client.get(url + path).content, asked)

    assert isinstance(error, httpx.TransportError)


def test_a_session_cuts_off_nothing_but_its_own_kind_of_calls(slot):
    class Session(Spy):
        pass

    Session.__module__ = "requests.sessions"
    ours, theirs = socket.socketpair()
    session = Session()
    with ours, theirs, suppress(TaskInterrupt), current.guard(session):
        slot.event.set()
        wait_closed(session)
        theirs.send(b"still here")

        assert ours.recv(100) == b"still here"


def test_a_process_that_is_copied_while_the_watcher_looks_goes_on(slot):
    with guards._some._cond, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: with threads, a copy may stand still
        pid = os.fork()
        if not pid:
            os._exit(0)

    def is_over():
        return os.waitpid(pid, os.WNOHANG) != (0, 0)

    try:
        wait_until(is_over, description="the copy has come out of the fork")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
