"""Submit the example's tasks and print what comes back, in the order in which it does."""

from __future__ import annotations

import concurrent.futures
import time

from tasks import fetch, stretch


def main() -> None:
    started = time.monotonic()
    futures = [stretch.submit(f"secret-{number}") for number in range(40)]
    futures += [fetch.submit(number) for number in range(40)]
    for done, future in enumerate(concurrent.futures.as_completed(futures, timeout=120), start=1):
        print(
            f"{time.monotonic() - started:6.2f} s  {done:3} of {len(futures)}  {str(future.result())[:24]}", flush=True
        )


if __name__ == "__main__":
    main()
