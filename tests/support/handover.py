"""When a task was taken from a worker that does not renew any more, by the server's own clock.

How late a test hears of it, on a machine that has too much to do, is no part of that.

    worker.freeze()
    assert 0 <= late_s(url, future.id) <= 1
"""

from __future__ import annotations

import redis

from support.waiting import wait_until

_QUEUE = "qw:{default.default}:"


def late_s(url: str, full_id: str, *, timeout: float = 15.0) -> float:
    """Wait until another claim has a task than now; return how long after the end of this one's lease that was made."""
    local = full_id.partition(":")[2]
    with redis.Redis.from_url(url, decode_responses=True) as client:

        def claim() -> str:
            """Of a task that is claimed or runs: in between there is none."""
            record = client.hget(_QUEUE + "tasks", local) or ""
            return record[2:14] if record[:1] in ("c", "r") else ""

        first, ends_ms = claim(), 0.0
        assert first, f"{full_id} is held by nobody"

        def other() -> str:
            nonlocal ends_ms
            ends_ms = client.zscore(_QUEUE + "leases", first) or ends_ms
            return found if (found := claim()) != first else ""

        taken = wait_until(other, timeout=timeout, description=f"another claim of {full_id}")
        fence = client.hget(_QUEUE + "held", taken).split()[0]  # goes by the server's clock, a dozen ms ahead at most
        return (int(fence) - ends_ms) / 1000
