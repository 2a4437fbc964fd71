"""All verbs of the broker, in one table for both of its faces.

    Broker.verb(queue, …) ────────────┐
                                      ├─► build(owner, queue, …) ─► Call or Flow ─► perform ─► the answer
    await AsyncBroker.verb(queue, …) ─┘

Each verb has its signature and its docstring in producer_calls.py, worker_calls.py, group_calls.py or flows.py, without
the first parameter; a face only says how a call gets to the server and back. Ids of tasks are local parts.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from . import flows, group_calls, producer_calls, worker_calls
from .calls import Call, Owner
from .flows import Flow

if TYPE_CHECKING:
    from .aio import AsyncBroker
    from .broker import Broker

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Verb(Protocol[P, T_co]):
    """A method of both faces. It is a plain function; this is its type, which is another one on each of them."""

    @overload
    def __get__(self, broker: Broker, owner: type[Any] | None = None, /) -> Callable[P, T_co]: ...
    @overload
    def __get__(self, broker: AsyncBroker, owner: type[Any] | None = None, /) -> Callable[P, Awaitable[T_co]]: ...


def _verb(build: Callable[Concatenate[Owner, P], Call[T] | Flow[T]]) -> Verb[P, T]:
    @functools.wraps(build)
    def verb(broker: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return broker.perform(build(broker.owner, *args, **kwargs))

    return cast("Verb[P, T]", verb)


class Verbs:
    """What can be asked of the server."""

    # What producers do.
    submit = _verb(flows.submit)
    peek = _verb(producer_calls.peek)
    outcomes = _verb(producer_calls.outcomes)
    stop = _verb(producer_calls.stop)
    expire = _verb(producer_calls.expire)
    progress = _verb(producer_calls.progress)
    watch = _verb(producer_calls.watch)
    # What workers do.
    claim = _verb(flows.claim)
    claim_ids = _verb(worker_calls.claim_ids)
    settle = _verb(worker_calls.settle)
    renew = _verb(worker_calls.renew)
    ring = _verb(worker_calls.ring)
    rescue_worker = _verb(flows.rescue_worker)
    beat = _verb(flows.beat)
    retire = _verb(flows.retire)
    check_fit = _verb(flows.check_fit)
    memory = _verb(flows.memory)
    # What both do with task groups.
    open_group = _verb(group_calls.open_group)
    join_group = _verb(group_calls.join_group)
    stop_group = _verb(group_calls.stop_group)
    beat_groups = _verb(group_calls.beat_groups)
    read_groups = _verb(group_calls.read_groups)
    close_group = _verb(group_calls.close_group)
    show_group = _verb(group_calls.show_group)
    # What people look at.
    inspect = _verb(flows.inspect)
    stats = _verb(flows.stats)
    queues = _verb(flows.queues)
    workers = _verb(flows.workers)
    listed_workers = _verb(flows.listed_workers)
    clock = _verb(flows.clock)
    server_facts = _verb(flows.server_facts)
