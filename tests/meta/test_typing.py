"""The types of the public face: a wrong submit does not type-check, a right one does and knows its result.

mypy is run on the snippet below. Each line that ends in `# refused: code` must be reported with that code, and no other
line at all; each `reveal_type` line says in its comment what must be revealed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SNIPPET = """
from datetime import timedelta
from qworker import App, call

app = App(queue="default", retries=1)

@app.task
def plain(path: str, size: int = 128) -> bytes:
    return b""

@app.task(timeout=30, grace="5s", retries=3, retry_for=(OSError, ValueError), deadline=timedelta(hours=1))
def optioned(path: str, *, fast: bool = False) -> list[int]:
    return []

@app.task
async def coroutine(seconds: float) -> str:
    return ""

def function(x: int) -> float:
    return x

# What is right
plain("a", size=3)
plain.submit("a").result(timeout=5).hex()
optioned.submit("a", fast=True)
plain.options(timeout=None, priority="high", id="x", pool="thread").submit("a", 1)
plain.submit_many([plain.call("a"), plain.call("b", size=1)])
plain.submit_many([call("a"), call("b")])
app.submit(function, 1)
app.submit("tasks.other", 1, anything=True)
reveal_type(plain("a"))  # revealed: bytes
reveal_type(plain.submit("a"))  # revealed: qworker.future.Future[bytes]
reveal_type(optioned.options(delay=1).submit("a").result())  # revealed: list[int]
reveal_type(plain.submit_many([plain.call("a")]))  # revealed: list[qworker.future.Future[bytes]]
reveal_type(coroutine.submit(1.0).result())  # revealed: str
reveal_type(app.submit(function, 1).result())  # revealed: float
reveal_type(app.submit(plain, "a").result())  # revealed: bytes
reveal_type(plain.submit("a").exception())  # revealed: Exception | None

def in_a_group() -> int:
    with app.group(timeout="1m", on_owner_loss="detach") as g:
        reveal_type(g.submit(plain, "a"))  # revealed: qworker.future.Future[bytes]
        reveal_type(g.submit(coroutine, 1.0).result())  # revealed: str
        reveal_type(g.submit(function, 1).result())  # revealed: float
        reveal_type(g.submit_many([plain.call("a")]))  # revealed: list[qworker.future.Future[bytes]]
        g.submit(plain, 1)  # refused: call-overload
        return 1  # so that a block that swallows nothing needs no return behind it

app.group(on_owner_loss="go on")  # refused: arg-type

async def main() -> None:
    async with app.group() as g:
        reveal_type(await (await g.asubmit(plain, "a")))  # revealed: bytes
    reveal_type(await coroutine(1.0))  # revealed: str
    reveal_type(await (await plain.asubmit("a")))  # revealed: bytes
    reveal_type(await (await coroutine.options(retries=1).asubmit(1.0)))  # revealed: str
    await plain.asubmit()  # refused: call-arg

# What is wrong
plain.submit()  # refused: call-arg
plain.submit(1)  # refused: arg-type
plain.submit("a", size="big")  # refused: arg-type
plain.submit("a", colour=1)  # refused: call-arg
plain.options(timeout=5).submit(5)  # refused: arg-type
plain.call(1)  # refused: arg-type
plain.submit_many([optioned.call("a")])  # refused: list-item
optioned.submit("a", True)  # refused: call-arg
coroutine.submit("soon")  # refused: arg-type
app.submit(plain, 1)  # refused: call-overload
app.submit(function, "x")  # refused: call-overload
plain.options(time_out=5)  # refused: call-arg
plain.options(priority="urgent")  # refused: arg-type
plain.options(retries="3")  # refused: arg-type
app.task(id="x")  # refused: call-overload
App(colour="red")  # refused: call-arg
plain.submit("a").result().append(1)  # refused: attr-defined
"""


def test_a_wrong_submit_does_not_type_check_and_a_right_one_does(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)

    command = [sys.executable, "-m", "mypy", "--no-pretty", "--hide-error-context", "--no-error-summary", "--strict"]
    done = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    lines = SNIPPET.splitlines()
    refused: dict[int, str] = {}
    revealed: dict[int, str] = {}
    for found in done.stdout.splitlines():
        if match := re.match(r".*snippet\.py:(\d+): error: .*\[([\w-]+)\]$", found):
            refused.setdefault(int(match[1]), match[2])
        elif match := re.match(r'.*snippet\.py:(\d+): note: Revealed type is "(.*)"$', found):
            revealed[int(match[1])] = match[2].replace("builtins.", "")  # which older versions print
        else:
            assert "snippet.py" in found, f"mypy complains elsewhere: {done.stdout}{done.stderr}"
    assert refused == wanted(lines, "refused"), done.stdout + done.stderr
    assert revealed == wanted(lines, "revealed"), done.stdout


def wanted(lines: list[str], word: str) -> dict[int, str]:
    marks = ((number, re.search(rf"# {word}: (.*)$", line)) for number, line in enumerate(lines, 1))
    return {number: mark[1] for number, mark in marks if mark}
