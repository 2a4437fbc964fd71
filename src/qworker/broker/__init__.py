"""The only package that speaks to Redis or Valkey, in the verbs of the state machine.

    App, Future ──► Broker ──────┐
                                 ├─ calls, flows (what to send, how to read the answer) ─► lua/*.lua ─► the server
    worker ───────► AsyncBroker ─┘

Names are resolved on first use, so that importing the package does not yet import redis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncBroker
    from .broker import Broker, Subscription
    from .keys import Keyspace
    from .values import (
        BellRing,
        ExpireAnswer,
        ServerFacts,
        SettleReply,
        StartedTask,
        StopAnswer,
        StopHint,
        SubmitItem,
        Submitted,
    )

__all__ = [
    "AsyncBroker",
    "BellRing",
    "Broker",
    "ExpireAnswer",
    "Keyspace",
    "ServerFacts",
    "SettleReply",
    "StartedTask",
    "StopAnswer",
    "StopHint",
    "SubmitItem",
    "Submitted",
    "Subscription",
]

_HOME = {"AsyncBroker": "aio", "Broker": "broker", "Subscription": "broker", "Keyspace": "keys"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME.get(name, 'values')}", __name__), name)
