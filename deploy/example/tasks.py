"""The tasks of the example in docker-compose.yml: one for the processors, one that waits."""

from __future__ import annotations

import hashlib
import time

from qworker import App, current

app = App()


@app.task(timeout=30, grace=2, retries=2)
def stretch(password: str, rounds: int = 200_000) -> str:
    """Derive a key from a password, the slow way: work for a process slot."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"qworker", rounds).hex()


@app.task(timeout=10, queue="io")
def fetch(page: int) -> str:
    """Pretend to fetch a page: waiting, for a thread slot. `current.check` lets it be stopped at any step."""
    for _ in range(10):
        current.check()
        time.sleep(0.05)
    return f"page {page}"
