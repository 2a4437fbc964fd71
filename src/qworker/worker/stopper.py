"""Hear of stops at once: a subscribed connection that only carries hints.

The stop itself is a durable flag; each renewal and each settle brings it. So a lost hint costs a second, never a stop.
"""

from __future__ import annotations

from ..broker.aio import AsyncBroker
from ..broker.values import StopHint
from .dispatch import Dispatcher
from .state import State


async def listen(state: State, broker: AsyncBroker, dispatcher: Dispatcher) -> None:
    """Pass stop hints on until cancelled."""

    def on_hint(hint: StopHint) -> None:
        dispatcher.stop(hint.queue, hint.claim, hint.id, hint.order)

    await broker.listen_stops(state.id, on_hint)
