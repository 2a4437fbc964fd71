"""Tell each minute, for as long as it is so, that the server is full, or that it may delete queued tasks.

A full server refuses submits, which only their producers see; the workers drain it, and nothing seems wrong there.
"""

from __future__ import annotations

import asyncio

from ..broker.aio import AsyncBroker
from ..errors import BrokerUnavailable
from ..log import Emit
from .state import UNANSWERED

LOOK_S = 60.0


async def watch(broker: AsyncBroker, emit: Emit, *, every_s: float = LOOK_S) -> None:
    """Look until cancelled, or until the server says that we may not."""
    while True:
        try:
            memory = await broker.memory()
        except BrokerUnavailable:
            pass  # claims and renewals tell of the outage
        except UNANSWERED:
            return  # the worker has warned at its start of what the server does not tell
        else:
            if memory.deletes_tasks:
                emit(
                    "redis.evicts", level="warning", policy=memory.policy, used=memory.used, limit=memory.limit or None,
                    note="when its memory is full it deletes queued tasks: set maxmemory-policy noeviction",
                )  # fmt: skip
            elif memory.is_full:
                emit(
                    "redis.full", level="error", used=memory.used, limit=memory.limit,
                    note="submits are refused; what it has is run, which makes room: drain it, or raise maxmemory",
                )  # fmt: skip
        await asyncio.sleep(every_s)
