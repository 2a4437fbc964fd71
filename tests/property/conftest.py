"""The back ends of the model tests: the simulation's model of a server, fakeredis (with Lua), redis-server,
valkey-server, and a node of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest

from support.backends import Backend, only_declared_keys, take_all_slots
from support.brokers import TwiceBroker
from support.replicas import free_port
from support.servers import Server, find_server, missing, start_server
from support.sim.client import ModelBroker


@pytest.fixture(scope="session")
def cluster_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with cluster mode on that holds all slots: a call whose keys are of two slots fails."""
    if find_server("redis") is None:
        pytest.skip(missing("redis"))
    server = start_server(
        "redis", tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes", "--cluster-port", str(free_port()),
        durable=False,
    )  # fmt: skip
    try:
        take_all_slots(server)
        yield server
    finally:
        server.stop()


def _on(url: str) -> TwiceBroker:
    broker = TwiceBroker(url, "t")
    broker.client.flushall()
    return broker


@pytest.fixture(params=["model", "fakeredis", "redis", "cluster", pytest.param("valkey", marks=pytest.mark.valkey)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A back end of model tests, one after the other."""
    kind = request.param
    if kind == "model":
        yield Backend(kind, ModelBroker)
        return
    if kind == "fakeredis":
        yield Backend(kind, lambda: TwiceBroker("redis://fake", "t", client=fakeredis.FakeRedis(version=(7,))))
        return
    server: Server = request.getfixturevalue(f"{kind}_server")
    if kind == "cluster":
        with only_declared_keys():
            yield Backend(kind, lambda: _on(server.url))
    else:
        yield Backend(kind, lambda: _on(server.url))
