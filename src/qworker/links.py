"""What a future asks of the client that it is awaited by, and how it finds it. Types alone: nothing here runs.

Future ─► Link.client() ─► Channel        App ─► broker.client.Client
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .stopping import Answer
    from .views import Inspection, WorkerRecord

__all__ = ["Channel", "Link"]


class Channel(Protocol):
    """What a future needs of the client that it is awaited by. `broker.client.Client` is one."""

    @property
    def closed(self) -> bool:
        """Whether it will settle nothing any more."""

    def watch(self, future: Any) -> None:
        """See to it that the future is settled when its task ends."""

    def hear(self, future: Any, timeout_s: float | None) -> None:
        """Listen in this thread, if no other does, until the future is settled or the time is up."""

    def keep(self, future: Any) -> None:
        """Hold the future until then, although nobody else may."""

    def follow(self, future: Any) -> None:
        """Hold it likewise, and have it told of its task's progress."""

    def inspect(self, id: str, *, timeout_s: float | None = None) -> Inspection:  # noqa: A002
        """Ask what the task is doing."""

    def stop(self, id: str, *, cancel_only: bool, grace_ms: int | None) -> Answer:  # noqa: A002
        """Cancel the task, or ask for its end wherever it is."""

    def worker(self, worker: str) -> WorkerRecord | None:
        """Return what a worker told of itself lately."""


class Link(Protocol):
    """How a future finds its client, which is another one after a fork. `App` is one."""

    @property
    def connected(self) -> bool: ...

    def client(self) -> Channel:
        """Return the client of this process; the first call connects."""
