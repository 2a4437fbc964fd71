"""The clock of leases: it goes on while this host is suspended, as the server's does, and monotonic clocks do not.

All processes of a host share it, and no step of the wall clock moves it. What measures how long code ran, and what
wakes an event loop, stays on the monotonic clock: docs/decisions/0021-leases-count-the-time-asleep.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux has it, and serves it without a system call

now: Callable[[], float] = partial(time.clock_gettime, _CLOCK)
now_ns: Callable[[], int] = partial(time.clock_gettime_ns, _CLOCK)
