"""Keys that somebody else wrote to: whatever is in them, workers go on, and those who look are told something."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import redis

from qworker import QWorkerError
from support.daemon import Worker
from support.promised import PROMISES, bound
from support.servers import Server
from support.waiting import wait_until

Start = Callable[..., Worker]
RUNS = int(os.environ.get("QWORKER_TEST_RUNS", "1"))
SEED = "QWORKER_TEST_SEED"  # the one fresh seed of a run, to have it again
PREFIX = "qw:{default.default}:"
HASHES = ("bodies", "tasks", "held", "cursors", "progress", "dead_bodies", "stats", "meta")
SORTED = ("later", "leases", "stops", "dead")
LISTS = ("suspects", "ready:default:normal", "ready:default:high", "bell:default")
FIELDS = ("epoch", "fence", "hold", "longest", "claimed", "submitted", "rescued", "x", "")
EXITS = range(4)  # 0 done, 1 error, 2 usage or configuration, 3 unhealthy


@pytest.fixture
def tasks(one_server: Server) -> Iterator[ModuleType]:
    with bound(one_server.url) as tasks:
        yield tasks


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        yield client


def text(rng: random.Random) -> bytes:
    return rng.choice(
        [
            b"", b"\xff\xfe\x00", b"-1", b"0", b"1e400", b"99999999999999999999", b"nan", b"x y z", b"\x1b[2J\x9b31m",
            "\u202etxt".encode(), b"{", b"a" * 10_000, b"q ------------ b - 1 1 0 0 0 0 0 0", b"\xdd\xff\xff\xff\xff",
            b"c aaaaaaaaaaaa z - 1 1 1 0 0 0 0 0", b"7 w 0 id id id", b"7", b"1 w", rng.randbytes(20),
            json.dumps({"id": "\x1b[2J", "pid": "x", "running": [1], "slots": None}).encode(), b"[]", b"null",
        ]
    )  # fmt: skip


def ids(client: redis.Redis) -> list[bytes]:
    """The tasks that are there, unless their hash was spoiled."""
    return client.hkeys(PREFIX + "bodies") if client.type(PREFIX + "bodies") == b"hash" else [b"x"]


def spoil(client: redis.Redis, rng: random.Random) -> None:
    """Write something to one of the keys that qworker has or may have."""
    there = client.keys("qw:*")
    ours = [PREFIX + name for name in (*HASHES, *SORTED, *LISTS, "result:x")]
    others = ("queues", "workers", "worker:w:1:a", "group:g-x", "group:g-x:tasks")
    key = rng.choice([*there, *(name.encode() for name in (*ours, *(f"qw:default:{name}" for name in others)))])
    kind = client.type(key)
    member = rng.choice([text(rng), *ids(client)])
    how = rng.randrange(6)
    if how == 0:
        client.delete(key)
    elif how == 1:
        client.delete(key)
        rng.choice(
            [
                lambda: client.set(key, text(rng)),
                lambda: client.hset(key, text(rng), text(rng)),
                lambda: client.rpush(key, text(rng)),
                lambda: client.zadd(key, {text(rng): 1}),
                lambda: client.sadd(key, text(rng)),
            ]
        )()
    elif kind == b"hash":
        client.hset(key, rng.choice([*client.hkeys(key), *(name.encode() for name in FIELDS), member]), text(rng))
    elif kind == b"zset":
        client.zadd(key, {member: rng.choice([0, -1e300, 1e300, time.time() * 1000, float("inf")])})
    elif kind == b"list":
        client.lpush(key, member)
    elif kind == b"set":
        client.sadd(key, member)
    else:
        client.set(key, text(rng))


def looked(url: str, *args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "qworker", *args, "--url", url], capture_output=True, timeout=30, check=False
    )
    return done.returncode, done.stdout.decode() + done.stderr.decode()


# The fresh one has no number here: all processes of pytest-xdist must collect the same names.
@pytest.mark.parametrize("known", [*range(2 * RUNS), "fresh"])
def test_whatever_is_in_the_keys_workers_and_those_who_look_go_on(
    start: Start, tasks: Any, client: redis.Redis, known: int | str
) -> None:
    seed = int(os.environ.get(SEED) or random.randrange(2, 2**32)) if known == "fresh" else int(known)
    print(f"seed {seed}; again: {SEED}={seed} pytest {__file__} -k fresh")  # pytest shows it if this fails
    rng = random.Random(seed)
    worker = start("-c", "2", target=PROMISES, env={"QWORKER_LEASE": "1"})
    for _ in range(40):
        try:
            tasks.echo.submit(1)
            if rng.random() < 0.3:
                tasks.echo.options(delay=0.05).submit(2)
        except QWorkerError:
            pass  # told, in words
        try:
            spoil(client, rng)
        except redis.ResponseError as error:
            if "WRONGTYPE" not in str(error):  # the worker was quicker, and made another key of it
                raise
    one = f"default:{rng.choice(ids(client)).decode(errors='replace')}"
    for verb in (("status",), ("status", "--json"), ("doctor",), ("dessert",), ("show", one), ("show", "g-x")):
        code, said = looked(tasks.app.url, *verb)
        assert code in EXITS, (verb, said)
        assert "Traceback" not in said, (verb, said)
        wild = [ascii(line) for line in said.splitlines() if not line.isprintable()]
        assert not wild, (verb, wild)
    assert worker.process.poll() is None, worker.log()
    assert not worker.events("worker.failed")
    assert "Traceback" not in worker.log_path.read_text()
    client.flushall()

    future = tasks.echo.submit("on")

    assert future.result(timeout=15) == "on"
    wait_until(lambda: not client.exists(PREFIX + "held"), description="no claim to be left")


def test_who_waits_for_what_nobody_can_read_keeps_nobody_from_lending(
    start: Start, one_server: Server, client: redis.Redis
) -> None:
    """A claim by id that failed each time was tried for ever: nothing was lent any more."""
    with bound(one_server.url, "support.apps.trees") as trees:
        client.set("qw:{default.other}:tasks", "spoiled")
        for queue in ("default", "other"):  # both are known, or who waits for one would be told at once that it is not
            client.hset(f"qw:{{default.{queue}}}:bodies", "x", "short")
        worker = start("-c", "process=3", target="support.apps.trees:app")
        vain = [trees.waits_for.submit(other) for other in ("default:x", "other:x")]
        worker.wait_event("redis.unreachable")

        assert trees.by_result.submit(3).result(timeout=20) == 8

        for future in vain:
            future.stop(wait=5, grace=0)
        client.flushall()
