"""mayu: fetching, acknowledging and scheduling in Rust, tasks in processes of one task or in threads."""

from __future__ import annotations

import sys
from typing import Any

import base
import work
from mayu import App

app = App(broker=base.URL, result_ttl=300 if base.RESULTS else None)
WRAPPED = {
    function.__name__: app.task(name=function.__name__)(
        work.ASYNC_TASKS.get(function.__name__, function) if base.MODE == "async" else function
    )
    for function in work.TASKS
}


class Mayu(base.Peer):
    name = "mayu"
    distributions = ("mayu", "msgpack")
    modes = ("process", "thread", "async")
    settings = (
        "process: --mode process --processes SLOTS, one task each; thread: --mode thread --threads SLOTS in one "
        "process (README, 'Modes'); both with --prefetch-multiplier 32 (default 2; README: more is claimed before it "
        "can run; took a quarter of the CPU per task here), 1 for long among short. async: the same threads, "
        "with --prefetch-multiplier 1, for "
        "it starts all coroutines that it has claimed. on a build with the GIL, while the README names free-threaded "
        "3.14 for thread mode. results: handle.result(timeout). results off: no result_ttl, its default. no bulk "
        "submit, no client for asyncio, and cancel for workflows alone. lease: --visibility-timeout"
    )
    pace = 33_000
    native = True
    cannot_stop = dict.fromkeys(modes, "cancel() is of workflows, and a node that runs already finishes (README)")
    lease = True

    def submit(self, task: str, body: str) -> Any:
        return WRAPPED[task].send(body)

    def result(self, handle: Any) -> str:
        return handle.result(timeout=60)

    def command(self) -> list[str]:
        if base.MODE == "process":
            slots = ["--mode", "process", "--processes", str(base.SLOTS)]
        else:
            slots = ["--mode", "thread", "--threads", str(base.SLOTS)]
        lease = ["--visibility-timeout", f"{base.LEASE_S:g}"] if base.LEASE_S else []
        ahead = "1" if base.MODE == "async" or not base.AHEAD else "32"
        return [
            sys.executable, "-m", "mayu", "worker", "peer_mayu:app",
            *slots, "--prefetch-multiplier", ahead, "--log-level", "ERROR", *lease,
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(Mayu())
