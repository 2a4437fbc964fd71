"""For the test suites of those who use qworker: a pytest plugin, and assertions.

    def test_thumbnail(qworker_app, qworker_worker):
        app = qworker_app("shop.tasks:app")             # the user's own app, on a private server, for this test
        qworker_worker(app, pool="process")             # a real worker
        assert thumbnail.submit("a.jpg").result(timeout=10) == "a.png"

    def test_checkout_sends_a_mail(qworker_app):
        app = qworker_app("shop.tasks:app", inline=True)  # without a server: submit runs the task here and now
        checkout()
        assert_submitted(app, send_mail, to="a@b.c")

    def test_thumbnail_can_be_stopped():
        assert_stops(thumbnail, ["large.jpg"], within=0.2)

The plugin registers itself with pytest when qworker is installed, and imports nothing of qworker before a fixture is
used. Names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bound import assert_submitted
    from .stops import assert_stops
    from .worker import RealWorker

__all__ = ["RealWorker", "assert_stops", "assert_submitted"]

_HOME = {"RealWorker": "worker", "assert_stops": "stops", "assert_submitted": "bound"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
