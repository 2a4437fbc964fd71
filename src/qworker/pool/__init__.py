"""Where tasks run: fork server, children, slots, and the ladder that ends what does not end by itself.

    worker ── Order ──► Pool ── frames, tokens ──► child ──► user code
    worker ◄─ Ending ── Pool ◄─ frames, page ───── child

Nothing here knows about Redis, and nothing here runs user code in the worker's process.
"""

from __future__ import annotations

from .facts import AppFacts, Events, RunningTask

__all__ = ["AppFacts", "Events", "Host", "Pool", "RunningTask"]


def __getattr__(name: str) -> object:
    # Children import this package, too: the worker's half (and asyncio with it) is loaded only where it is used.
    if name == "Host":
        from .host import Host

        return Host
    if name == "Pool":
        from .pool import Pool

        return Pool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
