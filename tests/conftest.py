"""Fixtures that every layer of tests shares.

    redis_server, valkey_server   one server per session and kind, emptied before each test
    server                        both of them, one after the other
    one_server, url               whichever there is (redis first), for tests that do not care
    new_server                    makes servers that belong to this test: kill, freeze and reconfigure these
    key_audit                     ask for it, and the test fails when it leaves keys that live for ever

Async tests need no plugin: they call `asyncio.run` on a coroutine. What is missing, as a server's binary, skips the
test at home and fails it where CI=true, unless support/skips.py names it.

What hypothesis draws is new in each run at home, and for each tree in CI (.ci/run). A failure says how to have it again
(`@reproduce_failure`), and is tried first the next time in the same directory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import engine

from support import skips
from support.servers import Kind, Server, ServerMissing, any_kind, find_server, missing, start_server

# Not hypothesis' own profile for CI, which it loads there by itself: that draws the same inputs in each run of the same
# code. How slow something is says nothing on a busy machine; the number of examples bounds it, and pytest's timeout.
settings.register_profile(
    "qworker",
    settings.get_profile("default"),
    derandomize=False, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("qworker")
engine.MAX_SHRINKING_SECONDS = 20  # of 300: before pytest's timeout, which would hide what was found

SERVER_FIXTURES = ("redis_server", "valkey_server", "server", "one_server")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skips.hold_to(report)
    return report


def need(kind: Kind) -> None:
    """Skip the test, or fail it in CI, when there is no server of that kind."""
    if find_server(kind) is None:
        pytest.skip(missing(kind))


class _Session:
    """The servers of this session: one per kind, started when first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: dict[Kind, Server] = {}

    def fresh(self, kind: Kind) -> Server:
        """The server of that kind: up, thawed and empty, whatever the test before did to it."""
        need(kind)
        server = self._servers.get(kind)
        if server is None:
            server = self._servers[kind] = start_server(kind, self._directory / kind, durable=False)
        server.thaw()
        if not server.alive:
            server.start()
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        return server

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Session]:
    session = _Session(tmp_path_factory.mktemp("servers"))
    yield session
    session.close()


@pytest.fixture
def redis_server(_servers: _Session) -> Server:
    return _servers.fresh("redis")


@pytest.fixture
def valkey_server(_servers: _Session) -> Server:
    return _servers.fresh("valkey")


@pytest.fixture(params=["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def server(request: pytest.FixtureRequest, _servers: _Session) -> Server:
    return _servers.fresh(request.param)


def _any_kind() -> Kind:
    try:
        return any_kind()
    except ServerMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def one_server(_servers: _Session) -> Server:
    return _servers.fresh(_any_kind())


@pytest.fixture
def url(one_server: Server) -> str:
    return one_server.url


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`new_server(kind=None, *args, durable=True, config=None, env=None)`: this test's own, stopped at its end."""
    started: list[Server] = []

    def make(
        kind: Kind | None = None, *args: str, durable: bool = True, config: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Server:  # fmt: skip
        kind = kind or _any_kind()
        need(kind)
        directory = tmp_path / f"server-{len(started)}"
        started.append(start_server(kind, directory, *args, durable=durable, config=config, env=env))
        return started[-1]

    yield make
    for server in started:
        server.stop()


@pytest.fixture
def key_audit(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test, every key left has a TTL or is on the permanent list of `qworker.broker.keys`."""
    names = [name for name in SERVER_FIXTURES if name in request.fixturenames]
    assert names, f"key_audit needs one of the fixtures {', '.join(SERVER_FIXTURES)}"
    servers = [request.getfixturevalue(name) for name in names]
    yield
    for server in servers:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            leaked = [key for key in client.scan_iter(count=1000) if client.pttl(key) == -1 and not is_permanent(key)]
        assert not leaked, f"keys that would live for ever, and are not in keys.PERMANENT: {sorted(leaked)}"


def is_permanent(key: str) -> bool:
    """Whether `keys.PERMANENT` names this key: a full name without its prefix, or a pattern with `*`."""
    from qworker.broker import keys

    suffix = re.sub(r"^qw:(\{[^}]*\}|[^:]*):", "", key)
    return any(re.fullmatch(re.escape(name).replace(r"\*", "[^:]*"), suffix) for name in keys.PERMANENT)
