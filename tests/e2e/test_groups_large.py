"""However large a group is: its stop is one write, and nothing of it starts after that."""

from __future__ import annotations

import itertools
import time

import redis

from e2e.conftest import TREE, executions
from qworker.broker import scripts
from support.waiting import wait_until

TASKS = 10_000


def test_ten_thousand_tasks_are_stopped_by_one_round_trip(start, tree, url, execution_log) -> None:
    workers = [start("-c", "2", target=TREE) for _ in range(2)]
    with tree.app.group() as earlier:
        earlier.stop()  # the server knows the script from now on
    with redis.Redis.from_url(url) as client, tree.app.group() as g:
        futures = g.submit_many([tree.polite.call(600) for _ in range(TASKS)])
        wait_until(lambda: len(executions(execution_log)) == 4, description="four starts")
        for worker in workers:
            worker.freeze()  # so that what is counted is the stop alone
        with client.monitor() as monitor:
            began = time.monotonic()
            g.stop()
            took = time.monotonic() - began
            client.echo("that is all")
            ran = scripts_run(monitor, until="that is all")

        assert [name for name in ran if "stop" in name] == ["group_stop"], "whatever else runs: beats, a look, a claim"
        assert len(ran) < 10
        assert took < 0.5
        for worker in workers:
            worker.thaw()
        started = len(executions(execution_log))

    assert all(future.cancelled() for future in futures)
    assert g.survivors == ()
    assert len(executions(execution_log)) == started == 4
    assert sum(receipt.how == "noticed" for receipt in g.receipts) == 4


def scripts_run(monitor: redis.client.Monitor, until: str) -> list[str]:
    """The names of the scripts that the server has run, of anybody, before it was told that word."""
    names = {scripts.load(name).sha: name for name in scripts.names()}
    commands = itertools.takewhile(lambda word: until not in word, (told["command"] for told in monitor.listen()))
    return [names[word.split()[1]] for word in commands if word.lower().startswith("evalsha")]
