"""What a group needs of its app and of the server, for type checkers; an inline app has its own form of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .place import Submits

if TYPE_CHECKING:
    from .future import Future
    from .group import Group
    from .model import Draft
    from .task import BoundTask
    from .views import Closed, GroupView

__all__ = ["GroupServer", "Opener"]


class GroupServer(Protocol):
    """What a group asks of the server; `broker.owned.OwnedGroups`, and `inline.InlineGroups` where there is none."""

    def open(
        self, group: Group, *, path: tuple[str, ...], name: str, opener: str, on_loss: str, timeout_ms: int
    ) -> None: ...
    def stop(self, group: str, *, grace_ms: int | None, reason: str) -> str: ...
    def close(self, group: str, *, seen: int, survivors: Sequence[str], path: Sequence[str]) -> Closed: ...
    def show(self, group: str) -> GroupView: ...
    def sweep(self, tasks: Iterable[str], *, force: bool, grace_ms: int | None) -> None: ...
    def look(self, tasks: Iterable[str]) -> list[tuple[str, bool]]: ...


class Opener(Submits, Protocol):
    """What a group needs of its app."""

    def groups(self) -> GroupServer: ...
    def named(self, target: str | Callable[..., Any]) -> BoundTask[..., Any]: ...
    def send(self, drafts: list[Draft]) -> list[Future[Any]]: ...
    async def asend(self, draft: Draft) -> Future[Any]: ...
    def future(self, id: str, /) -> Future[Any]: ...  # noqa: A002 - the public word
