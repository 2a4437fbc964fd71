"""What a worker makes again and again goes when it is done with: nothing of it waits for the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from qworker.broker import worker_calls
from qworker.broker.calls import Owner
from qworker.broker.keys import Keyspace
from qworker.broker.values import Stand
from qworker.model import POOL_NEEDS


@pytest.fixture(autouse=True)
def _not_collected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("sendings", [1, 2])
def test_a_claim_that_leaves_a_stand_goes_with_its_last_sending(sendings: int) -> None:
    owner = Owner(Keyspace("default"))
    stand = Stand("c" * 12, "host:1:aaaa", tuple(POOL_NEEDS), 12_000)
    gc.collect()
    call = worker_calls.claim(
        owner, "default", claim="d" * 12, worker="host:1:aaaa", rooms=[(POOL_NEEDS, 3)], lease_ms=12_000, stand=stand,
        standing=[stand],
    )  # fmt: skip
    for _ in range(1, sendings):
        assert call.again is not None
        call = call.again()
    assert call.args

    del call

    assert gc.collect() == 0
