"""Known-bad changes of the product, to be switched on for a while: each must make some history bad, or the simulator
proves nothing.

    with flaw("a settle without its fence"): simulate(…)
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

from qworker.broker import scripts
from qworker.pool.page import FOREVER
from qworker.worker import blame, collect, dispatch, fetcher, keeper, lease, settler, witness

from .network import Weather
from .plans import Blow, Job, Plan, draw

Patch = Callable[[], "contextlib.AbstractContextManager[object]"]


def _lua(old: str, new: str) -> Patch:
    """Another text in the scripts. The Lua of the model learns it when it is loaded."""

    @contextlib.contextmanager
    def patched() -> Iterator[None]:
        plain = scripts._joined
        found: list[str] = []

        def joined(library: str, source: str) -> str:
            text = plain(library, source)
            found.extend([old] * (old in text))
            return text.replace(old, new)

        scripts.load.cache_clear()
        try:
            with mock.patch.object(scripts, "_joined", joined):
                for name in scripts.names():
                    scripts.load(name)
                assert found, f"no script has: {old}"
                yield
        finally:
            scripts.load.cache_clear()

    return patched


def _method(owner: Any, name: str, new: Any) -> Patch:
    return lambda: mock.patch.object(owner, name, new)


def _both(one: Patch, other: Patch) -> Patch:
    """Two that stand for each other: either alone goes unnoticed, or less often."""

    @contextlib.contextmanager
    def patched() -> Iterator[None]:
        with one(), other():
            yield

    return patched


async def _settle_once(self: Any, queue: str, items: Any) -> Any:
    """Take what was not answered for settled."""
    try:
        return await self._broker.settle(queue, items, worker=self._worker)
    except settler.UNANSWERED:
        return settler.SettleReply(tuple("ok" for _ in items), ())


_make_fetcher = fetcher.Fetcher.__init__


def _seldom(self: Any, *args: Any, **kwargs: Any) -> None:
    """Look once a second, however short the lease is."""
    _make_fetcher(self, *args, **kwargs)
    self._poll_s = fetcher.POLL_S


class Flaw(NamedTuple):
    """A known-bad change, and where it shows: from which seed on, or in which plans that have all that it needs."""

    seed: int
    patch: Patch
    scene: tuple[Plan, ...] = ()

    def plans(self, most: int) -> Iterator[Plan]:
        """Where to look for it: so many plans at most."""
        return itertools.islice(self.scene or map(draw, itertools.count(self.seed)), most)


def _scene(jobs: Sequence[Job], blows: Sequence[tuple[float, str, float]], **fields: Any) -> tuple[Plan, ...]:
    """The same faults to either worker, a little later and with other dice each time."""
    return tuple(
        Plan(
            **{"lease_s": 2.0, "workers": 2, "slots": {"process": 1}, **fields}, hosts=9, window="4", producers=1,
            seed=seed, weather=Weather(), jobs=tuple(jobs),
            blows=tuple(Blow(at + seed / 20, kind, lasts_s, whom) for at, kind, lasts_s in blows),
        )
        for seed in range(20) for whom in (0.0, 0.99)
    )  # fmt: skip


_ONCE = _scene([Job("t0", 0.1, 3.0, once=True)], [(0.2, "kill worker", 0.0)], workers=1)
_LONG = _scene([Job("t0", 0.1, 20.0)], [(0.5, "freeze worker", 6.0)])
# It is stopped where it runs by then, and its first start goes on in a child of the worker that is frozen.
_STOPPED = _scene([Job("t0", 0.1, 60.0, verb="stop", after_s=5.0)], [(0.5, "freeze worker", 20.0)])
# Behind long tasks others wait in a child of the worker that is frozen; another worker has them by then.
_BEHIND = _scene([Job(f"t{n}", 0.1, 1.6) for n in range(7)], [(0.2, "freeze worker", 7.0)], workers=3)
# The same, and another worker was killed before: that explains nothing of what starts late elsewhere.
_BEHIND_A_KILL = _scene(
    [Job(f"t{n}", 0.1, 1.6) for n in range(7)], [(0.15, "kill worker", 0.0), (0.5, "freeze worker", 7.0)], workers=4
)
# The same, and a clock that steps: nothing starts late by that either.
_BEHIND_A_STEP = _scene(
    [Job(f"t{n}", 0.1, 1.6) for n in range(7)], [(0.15, "clock step", 3.0), (0.5, "freeze worker", 7.0)], workers=3
)
# The server is away for longer than a lease, and who holds nothing stands still itself meanwhile.
_AWAY = _scene([Job("t0", 0.1, 20.0)], [(0.6, "freeze worker", 2.6), (0.75, "restart server", 2.4)])
# A lease as short as an idle worker waits, were it not for that lease, and an outage that it sleeps through.
_SHORT = _scene([Job("t0", 0.1, 20.0)], [(0.8, "restart server", 0.8)], lease_s=1.0)
_STEP = _scene([Job("t0", 0.1, 20.0)], [(0.8, "clock step", 5.0)])

FLAWS: dict[str, Flaw] = {
    "a settle without its fence": Flaw(
        19, _lua("if (record and record == plain) or is_held_by(record, claim) then", "if record then")
    ),
    "a move without its fence": Flaw(
        3, _lua("local r = text and sub(text, 3, 14) == claim and parse(text)", "local r = text and parse(text)")
    ),
    "a rescue that ignores the lease": Flaw(
        0,
        _lua(
            "call('ZRANGEBYSCORE', K.leases, '-inf', int(now), 'LIMIT', 0, RESCUE_CLAIMS)",
            "call('ZRANGEBYSCORE', K.leases, '-inf', '+inf', 'LIMIT', 0, RESCUE_CLAIMS)",
        ),
    ),
    "a rescue that forgets what may run": Flaw(0, _lua("if not dead then cast_adrift(r) end", ""), _STOPPED),
    "no rescue": Flaw(3, _lua("if 0 < lapses and lapses <= now and hold", "if false and hold")),
    "no amnesty": Flaw(180, _lua("if A.stalled == '1' or (", "if false and (")),
    "a newcomer that rescues": Flaw(535, _lua(" and A.expected_ms ~= 'new' then", " then")),
    "a claim that forgets its replay": Flaw(11, _lua("  if known then\n", "  if false then\n")),
    "a submit that forgets its repetition": Flaw(3, _lua("if not digest and checked then", "if false then")),
    "a stop that waits is passed over by a retry": Flaw(
        48, _lua("elseif r.stop ~= '-' then\n      letter = 's'", "elseif false then\n      letter = 's'")
    ),
    "starts whatever became of the lease": Flaw(0, _method(lease.Lease, "start_until", FOREVER / 1e9), _BEHIND),
    "starts whatever became of the lease, after a kill": Flaw(
        0, _method(lease.Lease, "start_until", FOREVER / 1e9), _BEHIND_A_KILL
    ),
    "starts whatever became of the lease, after a step": Flaw(
        0, _method(lease.Lease, "start_until", FOREVER / 1e9), _BEHIND_A_STEP
    ),
    "keeps what runs of a lost claim": Flaw(0, _method(keeper.Keeper, "_lose", lambda *_: None), _LONG),
    "a settle that is given up": Flaw(38, _method(settler.Settler, "_settle", _settle_once)),
    "renewals that are not sent": Flaw(0, _method(keeper.Keeper, "renew", lambda _: _nothing())),
    "a lost child that is released": Flaw(0, _method(blame, "_on_death", lambda *_: blame.RELEASE)),
    "once is not recorded before": Flaw(
        0, _method(dispatch.Dispatcher, "_record", lambda *given: _all(given[-1])), _ONCE
    ),
    "stops that are not heeded": Flaw(0, _method(dispatch.Dispatcher, "stop", lambda *_: None)),
    "what ended is not told": Flaw(0, _method(collect.Collector, "settled", lambda *_: None)),
    "a clock that is not followed": Flaw(0, _method(witness.Witness, "expected_ms", lambda *_: None), _STEP),
    "who stood still itself rescues": Flaw(0, _method(witness.Witness, "_missed", lambda *_: False), _AWAY),
    "an idle worker that looks too seldom": Flaw(
        0,
        _both(
            _method(fetcher.Fetcher, "__init__", _seldom),
            _method(witness.Witness, "_missed", lambda self, now: now - self.seen_at > witness.NEW_S),
        ),
        _SHORT,
    ),
    "a stall that nobody saw": Flaw(
        0,
        _both(
            _method(witness.Witness, "stalled", lambda *_: False), _method(witness.Witness, "_missed", lambda *_: False)
        ),
        _AWAY,
    ),
}


async def _nothing() -> None:
    pass


async def _all(starts: Any) -> Any:
    return starts


def flaw(name: str) -> contextlib.AbstractContextManager[object]:
    """Switch one on."""
    return FLAWS[name].patch()
