"""Bad input kills nothing: bytes that qworker never wrote, names that nobody knows, text that would rule a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import msgpack
import pytest
import redis

from qworker import TaskFailed, WaitTimeout, codec
from qworker.model import Header, Line
from support.daemon import TESTS, Worker
from support.promised import PROMISES, bound, runs
from support.servers import Server
from support.waiting import wait_until

Start = Callable[..., Worker]
PREFIX = "qw:{default.default}:"
READY = PREFIX + "ready:default:normal"
BODY = codec.pack_body((1,), {})
ECHO = "support.apps.promises.echo"
LEASE = {"QWORKER_LEASE": "1"}
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"


@pytest.fixture
def tasks(one_server: Server) -> Iterator[ModuleType]:
    with bound(one_server.url) as tasks:
        yield tasks


@pytest.fixture
def serve(start: Start) -> Start:
    return lambda *args, **more: start(*args, target=PROMISES, **more)


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        yield client


def blob(*, header: bytes | None = None, body: bytes = BODY, name: str = ECHO, **options: object) -> bytes:
    """A task as it is stored, with parts of one's own."""
    header = codec.pack_header(Header(name, **options)) if header is None else header  # type: ignore[arg-type]
    return codec.pack_envelope(header=header, body=body, line=Line(), client=codec.NOBODY, sent_ms=0)


def push(client: redis.Redis, local: str | bytes, stored: bytes) -> None:
    """Put bytes where a task would be, as anybody may who can write to the server."""
    client.hset(PREFIX + "bodies", local, stored)
    client.rpush(READY, local)


def header_of(**changed: object) -> bytes:
    """A header with fields of any type."""
    names = ("version", "name", "timeout", "grace", "retries", "backoff", "jitter", "retry_for", "ttl", "delivery",
             "crashes", "extra")  # fmt: skip
    fields = dict(zip(names, (2, ECHO, 1000, 0, 0, 0, False, None, 60_000, "at_least_once", 3, {}), strict=True))
    version, name, *others = (fields | changed).values()
    return msgpack.packb([version, name, *(part for told in enumerate(others) for part in told)])


def run_cli(url: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "qworker", *args, "--url", url], capture_output=True, timeout=30, check=True
    )
    return done.stdout.decode() + done.stderr.decode()


def is_tame(text: str) -> bool:
    """Whether text can be printed without ruling the terminal."""
    return all(line.isprintable() for line in text.splitlines())


# Bytes


BAD_BODIES = {
    "no msgpack at all": b"\xc1\xc1\xc1",
    "nothing": b"",
    "cut short": BODY[:-1],
    "more than one value": BODY + b"\x01",
    "no pair of args and kwargs": msgpack.packb([1, 2, 3]),
    "kwargs with keys that are no names": msgpack.packb([[], {1: 2}]),
    "an unknown extension": msgpack.packb([[msgpack.ExtType(99, b"what")], {}]),
    "a known extension with nonsense in it": msgpack.packb([[msgpack.ExtType(1, b"\xff\xff")], {}]),
    "an array of four thousand million": b"\x92\xdd\xff\xff\xff\xff\x80",
    "a string of four thousand million": b"\x92\x91\xdb\xff\xff\xff\xff\x80",
    "ten thousand levels": b"\x92\x91" + b"\x91" * 10_000 + b"\xc0\x80",
    "text that is no UTF-8": b"\x92\x91\xa2\xff\xfe\x80",
    "arguments that do not bind": codec.pack_body((1, 2, 3), {"no": "such"}),
}


def test_a_body_that_cannot_be_decoded_fails_its_task_and_says_why(serve, tasks, client) -> None:
    worker = serve("-c", "process=2,thread=2", env=LEASE)
    processes = worker.processes()
    for number, body in enumerate(BAD_BODIES.values()):
        push(client, f"bad{number}", blob(body=body))

    for number, what in enumerate(BAD_BODIES):
        error = tasks.app.future(f"default:bad{number}").exception(timeout=10)
        assert error is not None, what
        assert "decode" in str(error) or "argument" in str(error), f"{what}: {error!r}"

    assert tasks.echo.submit("on").result(timeout=10) == "on"
    assert sorted(worker.processes()) == sorted(processes), "no child died of it"
    assert not worker.events("worker.failed")


BAD_BLOBS = {
    "too short for a line": b"1234",
    "too short for anything else": b"12345678b",
    "no header": blob()[:31],
    "a header cut short": blob()[:40],
    "a header longer than the blob": blob()[:29] + b"\xff\xff" + blob()[31:],
    "a header that is no msgpack": blob(header=b"\xc1\xc1"),
    "a header that is no array": blob(header=msgpack.packb({"name": ECHO})),
    "a header of another version": blob(header=header_of(version=3)),
    "a name that is no text": blob(header=header_of(name=7)),
    "a negative grace": blob(header=header_of(grace=-1)),
    "a grace that is no number": blob(header=header_of(grace="soon")),
    "a delivery that is unknown": blob(header=header_of(delivery="thrice")),
    "an extension in the header": blob(header=header_of(extra={"x": msgpack.ExtType(3, b"y")})),
    "a client that is no text": blob(header=b"\xc1")[:9] + b"\xff" * 12 + blob(header=b"\xc1")[21:],
    "a header nested without end": blob(header=b"\x9c\x02" + b"\x91" * 5_000),
}


def test_a_task_whose_header_cannot_be_read_fails_and_says_why(serve, tasks, client) -> None:
    worker = serve("-c", "2", env=LEASE)
    for number, stored in enumerate(BAD_BLOBS.values()):
        push(client, f"bad{number}", stored)

    for number, what in enumerate(BAD_BLOBS):
        future = tasks.app.future(f"default:bad{number}")
        with pytest.raises(TaskFailed, match="its header cannot be read: cannot decode"):
            future.result(timeout=10)
        assert future.outcome is not None, what
        assert future.outcome.how == "never_started", what
        stored = client.get(f"{PREFIX}result:bad{number}")
        assert (stored[1:3], stored[11:12]) == (b"\xc4\x08", b"\xac"), f"{what}: scripts look at these places"

    assert tasks.echo.submit("on").result(timeout=10) == "on"
    assert not worker.events("worker.failed")


COUNTS = ["timeout", "grace", "retries", "backoff", "ttl", "crashes"]


@pytest.mark.parametrize("field", COUNTS)
def test_a_header_with_a_number_beyond_all_range_fails_its_task_and_holds_up_nobody(
    serve, tasks, client, field
) -> None:
    worker = serve("-c", "1", env=LEASE)
    push(client, "huge", blob(header=header_of(**{field: 2**64 - 1})))

    with pytest.raises(TaskFailed, match="out of all range"):
        tasks.app.future("default:huge").result(timeout=10)

    assert tasks.echo.submit("on").result(timeout=10) == "on"
    assert not worker.events("redis.unreachable")


def test_headers_with_the_largest_numbers_that_can_be_read_are_served(serve, tasks, client) -> None:
    worker = serve("-c", "1", env=LEASE)
    for field in COUNTS:
        push(client, f"large-{field}", blob(header=header_of(**{field: 2**53})))
        failing = header_of(name="support.apps.promises.raises", **{field: 2**53})
        push(client, f"fails-{field}", blob(header=failing, body=codec.pack_body(("x",), {})))

    for field in COUNTS:
        assert tasks.app.future(f"default:large-{field}").result(timeout=10) == 1
        if field != "retries":
            with pytest.raises(ValueError, match="x"):
                tasks.app.future(f"default:fails-{field}").result(timeout=10)

    assert tasks.app.future("default:fails-retries").stop(wait=5).outcome == "cancelled"
    assert not worker.events("redis.unreachable")


BAD_IDS = [
    b"\xff\xfe",  # no UTF-8
    b"two words",
    b"claim#",
    b"\x1b[2J\x07",
    b"",
    b"x" * 10_000,
    b"new\nline",
    "\u202egnp.\ud7ff".encode(),
]


def test_ids_that_are_none_are_passed_over_or_failed_and_serving_goes_on(serve, tasks, client) -> None:
    worker = serve("-c", "2", "--window", "4", env=LEASE)
    for local in BAD_IDS:
        push(client, local, blob())
    futures = [tasks.echo.submit(n) for n in range(20)]

    assert [future.result(timeout=10) for future in futures] == list(range(20))
    wait_until(lambda: not client.exists(READY), description="the line to be empty")
    wait_until(lambda: not client.exists(PREFIX + "held"), description="no claim to be left")
    assert worker.process.poll() is None
    assert not worker.events("worker.failed")
    assert is_tame(run_cli(tasks.app.url, "status"))


BAD_RECORDS = [
    b"",
    b"\xff\xfe\x00",
    b"q",
    b"q ------------ b - 1 1 0 0 0 0 0",
    b"q ------------ b soon 1 1 0 0 0 0 0 0",  # a stop that is no number
    b"q ------------ b - 1 1 0 0 0 0 99999999999999999999 0",
    b"q ------------ b - 99999999999999999999999 1 0 0 0 0 0 0",
    b"q ------------ b - 1 1 0 99999999999 1 0 0 0",
    b"Z ------------ b - 1 1 0 0 0 0 0 0",
]


def test_records_that_nobody_wrote_hold_up_nobody(serve, tasks, client) -> None:
    worker = serve("-c", "2", "--window", "4", env=LEASE)
    for number, record in enumerate(BAD_RECORDS):
        client.hset(PREFIX + "tasks", f"rec{number}", record)
        push(client, f"rec{number}", blob())
    futures = [tasks.echo.submit(n) for n in range(20)]

    assert [future.result(timeout=10) for future in futures] == list(range(20))
    wait_until(lambda: not client.exists(PREFIX + "held"), description="no claim to be left")
    assert worker.process.poll() is None
    assert not worker.events("worker.failed")


def test_messages_that_nobody_wrote_are_dropped(serve, tasks, client) -> None:
    worker = serve("-c", "1")
    future = tasks.nap.submit(0.5, "fine")

    def listened_to() -> list[str]:
        return [channel.decode() for channel in client.pubsub_channels("qw:*")]

    wait_until(lambda: any(":stops:" in name for name in listened_to()), description="the worker to hear of stops")
    channels = listened_to()
    assert any(":inbox:" in channel for channel in channels)

    for channel in channels:
        for message in (b"", b"\xff\xfe", b"a b c", b"default x y z", b"\xdd\xff\xff\xff\xff", b"\x91" * 5_000):
            client.publish(channel, message)

    assert future.result(timeout=10) == "fine"
    assert tasks.echo.submit(1).result(timeout=10) == 1
    assert worker.process.poll() is None


def test_tasks_that_write_where_only_qworker_writes_harm_their_children_and_nobody_else(start, one_server) -> None:
    """What a child says goes on to the worker's other roles; the pool alone: tests/integration/test_pool_vandals.py."""
    app = "support.apps.vandals"
    with bound(one_server.url, app) as vandals:
        worker = start("-c", "4", target=f"{app}:app", env=LEASE)
        once = vandals.scribbles.options(max_crashes=1, timeout=2, grace=0.1)
        futures = [once.submit(seed, kind) for seed in range(20) for kind in ("frames", "page")]
        for future in futures:
            future.exception(timeout=20)

        assert vandals.echo.submit("on").result(timeout=10) == "on"
    assert worker.process.poll() is None
    assert not worker.events("worker.failed")
    assert "Traceback" not in worker.log_path.read_text()


# Names


def test_a_task_that_no_worker_knows_waits_in_sight_and_runs_as_soon_as_one_does(
    start, serve, tasks, client, execution_log
) -> None:
    worker = start("-c", "1")  # the app of another deploy
    future = tasks.nap.submit(0.0, "at last")
    worker.wait_event("task.unknown", task=future.id)

    def told() -> dict[str, int]:
        (shown,) = json.loads(run_cli(tasks.app.url, "status", "--json"))["workers"]
        return shown["unknown"]

    seen = wait_until(told, timeout=5, description="the name in `qworker status --json`")
    assert list(seen) == ["support.apps.promises.nap"]
    with pytest.raises(WaitTimeout, match=r"no worker of queue '\w+' knows support.apps.promises.nap: a typing"):
        future.result(timeout=0.1)
    assert tasks.app.submit("support.apps.basic.add", 1, 2).result(timeout=10) == 3, "the others go on"
    assert len(worker.wait_events("task.unknown", 1)) == 1, "said once, not each time it is looked at"

    serve("-c", "1")

    assert future.result(timeout=5) == "at last", "who does not know it comes a little later than who may"
    assert [run.attempt for run in runs(execution_log)] == [1]


# Terminals


def test_nothing_that_a_task_says_rules_the_terminal_that_shows_it(tasks, client, url, tmp_path, execution_log) -> None:
    log = tmp_path / "console.log"
    environment = {**os.environ, "QWORKER_URL": url, "PYTHONPATH": str(TESTS), "EXECUTION_LOG": str(execution_log)}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "qworker", "start", PROMISES, "-c", "1", "--log-format", "console"],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment,
        )  # fmt: skip
    worker = Worker(process, log)
    try:
        said, raised = tasks.says.submit(f"said {ESCAPES}"), tasks.raises.submit(f"raised {ESCAPES}")
        push(client, "unknown", blob(name=f"unknown{ESCAPES}", body=codec.pack_body((ESCAPES,), {})))
        unknown = tasks.app.future("default:unknown")
        said.result(timeout=15)
        with pytest.raises(ValueError, match="raised"):
            raised.result(timeout=10)
        for words in ("said", "raised", "unknown"):
            wait_until(lambda w=words: w in log.read_text(), description=f"{words!r} in the log")
        assert is_tame(log.read_text())
        assert r"said \x1b[2J" in log.read_text()

        wait_until(
            lambda: r"unknown\x1b[2J" in run_cli(url, "status"), timeout=15, description="the name in `qworker status`"
        )  # fmt: skip
        for verb in (("status",), ("show", raised.id), ("show", unknown.id), ("dessert",)):
            assert is_tame(run_cli(url, *verb)), verb
    finally:
        worker.close()


def test_nothing_in_the_list_of_workers_rules_the_terminal_either(tasks, client, url) -> None:
    """A worker is on the list by its id alone, and tells of itself what it likes."""
    now, names = time.time() * 1000, [f"{kind}{ESCAPES}\nforged: a line" for kind in ("silent", "telling")]
    client.zadd("qw:default:workers", dict.fromkeys(names, now))
    shown = {"id": ESCAPES, "name": ESCAPES, "asked": ESCAPES, "outcome": ESCAPES, "child": ESCAPES, "slot": ESCAPES}
    told = {"id": ESCAPES, "host": ESCAPES, "pid": 1, "boot_id": ESCAPES, "pid_ns": ESCAPES, "start_time": 1,
            "queues": [ESCAPES], "state": ESCAPES, "started_ms": 1, "beat_ms": 1, "slots": {ESCAPES: 1},
            "lent": {ESCAPES: 1}, "unknown": {ESCAPES: 1}, "running": [shown], "survivors": [shown]}  # fmt: skip
    client.hset(f"qw:default:worker:{names[1]}", "record", json.dumps(told))
    client.sadd("qw:default:queues", f"q{ESCAPES}")
    client.hset(f"{PREFIX}stats", f"succeeded{ESCAPES}", 1)

    said = {verb: run_cli(url, verb) for verb in ("status", "dessert")}

    for verb, text in said.items():
        assert r"silent\x1b[2J" in text, verb
        assert is_tame(text), verb
        assert not any(line.startswith("forged") for line in text.splitlines()), verb
