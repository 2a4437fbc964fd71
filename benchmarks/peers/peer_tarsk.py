"""tarsk: a supervisor in Rust that hands tasks to Python children, each with an asyncio loop of so many slots."""

from __future__ import annotations

import sys
from typing import Any

import base
import kinds
import work
from tarsk import App, group

app = App(broker=base.URL)
WRAPPED = {
    function.__name__: app.task(name=function.__name__, result_ttl=300 if base.RESULTS else 0)(kinds.best(function))
    for function in work.TASKS
}


class Tarsk(base.Peer):
    name = "tarsk"
    distributions = ("tarsk-redis", "msgpack")
    modes = ("process", "thread", "async")
    settings = (
        "process: --children SLOTS, each with the default 100 --slots (site/benchmarks, 'Waiting, not working'), the "
        "no-op a coroutine; a child runs as many functions that block at a time, in threads (--slots 1 would run one, "
        "and took a third more CPU per no-op here), but for long among short. thread, async: one child, "
        "--slots SLOTS. bulk: group().send(), "
        "which sends one by one. results: AsyncResult.get(poll=0), as nothing there wakes a waiter (default poll 50 "
        "ms). results off: no result_ttl, its default. cancel of a running task: none by design (site/operating). its "
        "child starts asyncio's own loop before it imports the app, so no uvloop"
    )
    pace = 8_000
    native = True
    cannot_stop = dict.fromkeys(modes, "cancel() stops what has not started, by design (site/operating)")
    not_soon_back = "back after the task's timeout and --lease-grace, by default 300 and 30 s (tarsk worker --help)"

    def submit(self, task: str, body: str) -> Any:
        return WRAPPED[task].send(body)

    def submit_many(self, task: str, bodies: list[str]) -> list[Any]:
        wrapped = WRAPPED[task]
        return group(wrapped.s(body) for body in bodies).send()

    async def asubmit(self, task: str, body: str) -> Any:
        return await WRAPPED[task].send_async(body)

    def result(self, handle: Any) -> str:
        return app.result(handle).get(timeout=60, poll=0)

    def command(self) -> list[str]:
        if base.MODE == "process":
            slots = ["--children", str(base.SLOTS), "--slots", "100" if base.AHEAD else "1"]
        else:
            slots = ["--children", "1", "--slots", str(base.SLOTS)]
        return [
            sys.executable, "-m", "tarsk._cli", "worker",
            "--app", "peer_tarsk:app", "--broker", base.URL, *slots,
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(Tarsk())
