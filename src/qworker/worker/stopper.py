"""Hear of stops, of stopped groups, and of new workers, at once: a subscribed connection that only carries hints.

The stop itself is a durable flag; each renewal and each settle brings it, and groups are read each second. So a lost
hint costs a second, never a stop.
"""

from __future__ import annotations

from collections.abc import Callable

from ..broker.aio import AsyncBroker
from ..broker.values import StopHint
from .dispatch import Dispatcher
from .state import State


async def listen(state: State, broker: AsyncBroker, dispatcher: Dispatcher, on_hello: Callable[[], None]) -> None:
    """Pass hints on until cancelled; `on_hello` is called when another worker has told of itself for the first time."""

    def on_hint(hint: StopHint) -> None:
        dispatcher.stop(hint.queue, hint.claim, hint.id, hint.order)

    await broker.listen_stops(state.id, on_hint, on_hello, dispatcher.groups.heard)
