"""The back ends of the model tests: the simulation's model of a server, fakeredis (with Lua), redis-server,
valkey-server, and a node of a cluster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import fakeredis
import pytest

from support.backends import Backend, only_declared_keys, take_all_slots
from support.brokers import FAKES, TwiceBroker
from support.replicas import free_port
from support.servers import Server, find_server, missing, start_server
from support.sim.client import ModelBroker

pytest.register_assert_rewrite("support.broker_model")  # what it compares is to be shown when it differs


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


@pytest.fixture(params=["model", *FAKES, "redis", "cluster", pytest.param("valkey", marks=pytest.mark.valkey)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A back end of model tests, one after the other. What is made is one broker, emptied each time."""
    kind = request.param
    if kind == "model":
        broker: TwiceBroker = ModelBroker()
    elif kind in FAKES:
        broker = TwiceBroker("redis://fake", "t", client=fakeredis.FakeRedis(version=FAKES[kind]))
    else:
        broker = TwiceBroker(request.getfixturevalue(f"{kind}_server").url, "t")
    with broker, only_declared_keys() if kind == "cluster" else contextlib.nullcontext():
        yield Backend(kind, broker.reset)
