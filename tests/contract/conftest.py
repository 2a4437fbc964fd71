"""The same contract on every back end: fakeredis (with Lua; as Redis 7 and as 6.2), redis-server, valkey-server."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest

from support.brokers import FAKES, TwiceBroker


@pytest.fixture(params=["fakeredis", "fakeredis-6.2", "redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def broker(request: pytest.FixtureRequest) -> Iterator[TwiceBroker]:
    """A broker on an empty back end, its clock at START_MS; every call is sent twice."""
    if request.param in FAKES:
        made = TwiceBroker("redis://fake", "t", client=fakeredis.FakeRedis(version=FAKES[request.param]))
    else:
        made = TwiceBroker(request.getfixturevalue(f"{request.param}_server").url, "t")
    made.at(0)
    with made:
        yield made
