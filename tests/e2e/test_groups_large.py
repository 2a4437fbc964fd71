"""However large a group is: its stop is one write, and nothing of it starts after that."""

from __future__ import annotations

import time

import redis

from e2e.conftest import TREE, executions
from support.waiting import wait_until

TASKS = 10_000


def test_ten_thousand_tasks_are_stopped_by_one_round_trip(start, tree, url, execution_log) -> None:
    workers = [start("-c", "2", target=TREE) for _ in range(2)]
    with redis.Redis.from_url(url) as client, tree.app.group() as g:
        futures = g.submit_many([tree.polite.call(600) for _ in range(TASKS)])
        wait_until(lambda: len(executions(execution_log)) == 4, description="four starts")
        for worker in workers:
            worker.freeze()  # so that what is counted is the stop alone
        tree.app.client().groups.beat()
        client.config_resetstat()
        before = scripts_run(client)

        began = time.monotonic()
        g.stop()
        took = time.monotonic() - began

        assert scripts_run(client) - before <= 2  # and perhaps a beat or a peek of the client's own
        assert took < 0.5
        for worker in workers:
            worker.thaw()
        started = len(executions(execution_log))

    assert all(future.cancelled() for future in futures)
    assert g.survivors == ()
    assert len(executions(execution_log)) == started == 4
    assert sum(receipt.how == "noticed" for receipt in g.receipts) == 4


def scripts_run(client: redis.Redis) -> int:
    """How many scripts the server has run, of anybody."""
    found = client.info("commandstats")
    return sum(int(found.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))
