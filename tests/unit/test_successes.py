"""A flood of successes is counted, not told one by one; everything else always has its line."""

from __future__ import annotations

import asyncio
from typing import Any

from qworker.worker.collect import Successes


def test_a_hundred_successes_a_second_have_lines_and_the_rest_is_counted() -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    async def main() -> list[str]:
        successes = Successes(lambda name, /, *, level="info", **fields: told.append((name, fields)))
        levels = [successes.level() for _ in range(250)]
        successes.tell_rest()
        successes.tell_rest()
        return levels

    levels = asyncio.run(main())

    assert levels == ["info"] * 100 + ["debug"] * 150
    assert [(name, fields["count"]) for name, fields in told] == [("tasks.succeeded", 150)]


def test_few_successes_are_never_counted_instead_of_told() -> None:
    async def main() -> list[str]:
        successes = Successes(lambda *_, **__: None)
        return [successes.level() for _ in range(100)]

    assert set(asyncio.run(main())) == {"info"}
