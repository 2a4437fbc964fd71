"""The back ends of the model tests, and how long each machine runs on them.

    def test_…(backend): run_machine(Machine, runs)      # `backend` is a fixture of tests/property/conftest.py
    with only_declared_keys(): …                         # a script that touches another key fails

A cluster with one node takes any key, declared or not, while it holds all slots: there the scripts look for themselves.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from qworker.broker import scripts
from support.brokers import TwiceBroker
from support.servers import Server

STEPS = 40
SLOTS = 16_384
READY_WITHIN_S = 10.0

_ONLY_DECLARED = """\
local declared = {}
for i = 1, #KEYS do declared[KEYS[i]] = true end
local redis = setmetatable({ call = function(command, ...)
  local keys = ({ EXISTS = select('#', ...), PUBLISH = 0, TIME = 0 })[command] or 1
  for i = 1, keys do
    local key = select(i, ...)
    if not declared[key] then error(command .. ' of an undeclared key: ' .. tostring(key)) end
  end
  return redis.call(command, ...)
end }, { __index = redis })
"""


@dataclass(frozen=True)
class Backend:
    """Where a model test runs; `make` brings a broker on it, empty."""

    kind: str
    make: Callable[[], TwiceBroker]


def run_machine(machine: type[RuleBasedStateMachine], runs: int) -> None:
    """Run a machine so often, times QWORKER_TEST_RUNS."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, int(runs * float(os.environ.get("QWORKER_TEST_RUNS", "1")))),
            stateful_step_count=STEPS,
            deadline=None,
            phases=[phase for phase in settings().phases if phase is not Phase.explain],  # that takes minutes
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


@contextlib.contextmanager
def only_declared_keys() -> Iterator[None]:
    """Have every script refuse to touch a key that its call did not declare."""
    plain = scripts._joined
    scripts.load.cache_clear()
    scripts._joined = lambda library, source: _ONLY_DECLARED + plain(library, source)
    try:
        yield
    finally:
        scripts._joined = plain
        scripts.load.cache_clear()


def take_all_slots(server: Server) -> None:
    """Make a server that was started for a cluster a whole one by itself."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        ends = time.monotonic() + READY_WITHIN_S
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            assert time.monotonic() < ends, "the cluster did not come up"
            time.sleep(0.02)
