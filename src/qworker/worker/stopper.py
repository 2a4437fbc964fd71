"""Hear of stops, stopped groups, watchers, new workers, filled claims, at once: a connection that carries only hints.

The stop itself is a durable flag; each renewal and each settle brings it, and groups are read each second. So a lost
hint costs a second, never a stop.
"""

from __future__ import annotations

from collections.abc import Callable

from ..broker.aio import AsyncBroker
from ..broker.values import StopHint, WatchHint
from ..model import Window
from .dispatch import Dispatcher
from .state import State


async def listen(
    state: State,
    broker: AsyncBroker,
    dispatcher: Dispatcher,
    on_hello: Callable[[], None],
    on_window: Callable[[Window], None],
) -> None:
    """Pass hints on until cancelled; `on_hello` is called when another worker has told of itself for the first time.

    `on_window` gets what a submit has put into a claim that stands.
    """

    def on_hint(hint: StopHint | WatchHint) -> None:
        if isinstance(hint, StopHint):
            dispatcher.stop(hint.queue, hint.claim, hint.id, hint.order)
        elif (held := state.ledger.by_id.get(f"{hint.queue}:{hint.id}")) is not None and state.notes.watch(held):
            state.mark_soon.set()  # the first look of who watches need not wait for the next renewal

    await broker.listen_stops(state.id, on_hint, on_hello, dispatcher.groups.heard, on_window)
