"""A task that splits itself, and waits for its parts: how many primes are there below a number?

    qworker start splitter:app -c 2
    python splitter.py 1000000 --depth 7

Each level waits for the one below it, many more tasks than there are slots. None of them blocks a slot: a task that
waits for others lends its slot to one of those.
"""

from __future__ import annotations

import argparse
from itertools import compress

from qworker import App, current

app = App()


@app.task
def primes(first: int, end: int, depth: int) -> int:
    """Count the primes in [first, end): by two tasks for its halves, or here when it is not to be split any more."""
    if depth > 0:
        middle = (first + end) // 2
        left = primes.submit(first, middle, depth - 1)
        right = primes.submit(middle, end, depth - 1)
        return left.result() + right.result()
    return sieve(first, end)


def sieve(first: int, end: int) -> int:
    """Count the primes in [first, end), here."""
    first = max(first, 2)
    if end <= first:
        return 0
    marks = bytearray([1]) * (end - first)
    for divisor in range(2, int(end**0.5) + 1):
        current.check()
        start = max(divisor * divisor, -(-first // divisor) * divisor)
        marks[start - first :: divisor] = bytes(len(range(start, end, divisor)))
    return sum(compress(marks, marks))


def main() -> None:
    parser = argparse.ArgumentParser(description="Count primes.")
    parser.add_argument("below", type=int)
    parser.add_argument("--depth", type=int, default=6, help="how often the range is halved")
    given = parser.parse_args()

    found = primes.submit(0, given.below, given.depth).result(timeout=600)
    print(f"{found} primes below {given.below}, by {2 ** (given.depth + 1) - 1} tasks")


if __name__ == "__main__":
    main()
