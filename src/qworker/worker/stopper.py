"""Hear of stops at once: a subscribed connection that only carries hints.

The stop itself is a durable flag; each renewal and each settle brings it. So a lost hint costs a second, never a stop.
"""

from __future__ import annotations

import asyncio

from ..broker.aio import AsyncBroker
from ..errors import BrokerError
from ..model import StopOrder
from .dispatch import Dispatcher
from .state import State


async def listen(state: State, broker: AsyncBroker, dispatcher: Dispatcher) -> None:
    """Pass stop hints on until cancelled."""

    def on_hint(queue: str, claim: str, task_id: str, order: StopOrder) -> None:
        dispatcher.stop(queue, claim, task_id, order)

    pause = 0.1
    while True:
        try:
            await broker.listen_stops(state.id, on_hint)
            pause = 0.1
        except BrokerError:
            pass  # claims and renewals tell of the outage; meanwhile stops come with the renewals
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2.0)
