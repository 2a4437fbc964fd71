"""Send drafts: pack them, in chunks of one line each, and say truthfully what became of them when that fails.

Client.submit      ─► chunks ─► registry.add ─► Broker.submit ─► registry.confirm
Client.submit_soon ─► post   ─┘                               └► registry.drop, and a typed error
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .. import codec
from ..errors import BrokerError, NotReplicated, Refused, SubmitUnknown
from ..model import Draft
from .broker import Broker
from .registry import Awaited, Registry
from .together import LARGE
from .values import SubmitItem, Submitted

if TYPE_CHECKING:
    from .durable import Durable

__all__ = ["Post", "Sending"]

CHUNK_ITEMS = 256
CHUNK_BYTES = 4 << 20
# A worker that is about to say "expired" is left to it.
DEADLINE_SLACK_S = 0.1


class Post(NamedTuple):
    """A task to be sent by the I/O thread, and whom to tell."""

    draft: Draft
    future: Awaited
    answer: Callable[[BaseException | None], None]


class Sending:
    """The sending half of one client. Any thread may use it."""

    def __init__(self, client: str, broker: Broker, registry: Registry) -> None:
        self._client = client
        self._broker = broker
        self._registry = registry
        self._server_offset_s: float | None = None

    def now_ms(self) -> int:
        """Estimate the server's time; this host's until the server was heard. For display only."""
        if self._server_offset_s is None:
            return int(time.time() * 1000)
        return int((time.monotonic() + self._server_offset_s) * 1000)

    def submit(self, drafts: Sequence[Draft], futures: Sequence[Awaited]) -> bool:
        """Queue tasks, some hundred per round trip. True if the I/O thread has new questions to ask.

        Raises:
            Refused, SubmitUnknown, BrokerUnavailable: see there. Of several chunks, those before the failing one are
                queued; the error's `accepted` has their futures.
            NotReplicated: all are queued, and those that are to be durable are not known to be.
            ServerUnfit: the server keeps nothing durably, or cannot tell; nothing was queued.
        """
        asks = False
        accepted: list[Awaited] = []
        durable: Durable | None = None
        try:
            for chunk in _chunks(drafts):
                lot, members = [drafts[place] for place in chunk], [futures[place] for place in chunk]
                if lot[0].durable and durable is None:
                    from .durable import Durable  # few ask for it

                    durable = Durable(self._broker)
                try:
                    asks |= self._send(lot, members, durable)
                except Refused as refused:
                    refused.accepted = tuple(accepted)
                    raise
                except (SubmitUnknown, BrokerError) as error:
                    if isinstance(error, BrokerError) and not accepted:
                        raise  # nothing was queued
                    raise _unknown(error, futures, accepted) from error
                accepted += members
            if durable is not None and (doubt := durable.confirm()):
                raise _not_kept(doubt, drafts, futures)
        finally:
            if durable is not None:
                durable.close()
        return asks

    def post(self, posts: Sequence[Post]) -> None:
        """Queue what several coroutines want queued, each told of its own; the I/O thread calls this."""
        chunks = _chunks([post.draft for post in posts])
        # A given id may be in conflict, and then its whole call is refused: each goes alone.
        alone = [[place] for chunk in chunks if posts[chunk[0]].draft.given for place in chunk]
        for chunk in [chunk for chunk in chunks if not posts[chunk[0]].draft.given] + alone:
            members = [posts[place] for place in chunk]
            try:
                self._send([post.draft for post in members], [post.future for post in members])
            except Exception as error:
                for post in members:
                    post.answer(_own_error(error, post.future))
            else:
                for post in members:
                    post.answer(None)

    def _send(self, drafts: Sequence[Draft], futures: Sequence[Awaited], durable: Durable | None = None) -> bool:
        """Send one chunk: drafts of one queue, line and group, all with given ids or none, and all durable or none."""
        first = drafts[0]
        submit: Callable[..., Submitted] = self._broker.submit
        if first.durable and durable is not None:
            durable.check()
            submit = durable.keep
        if first.groups:
            # Listed before they are queued: who stops or leaves the group knows of all that may come to run.
            self._broker.join_group(first.groups, [future.id for future in futures])
        sent_ms, client = self.now_ms(), self._client
        line, pack = first.line, codec.pack_envelope
        items = [
            SubmitItem(
                draft.local,
                pack(draft.header, draft.body, line, client, sent_ms, draft.core),
                draft.delay_ms,
                draft.deadline_ms,
            )
            if len(draft.body) < LARGE
            else SubmitItem(
                draft.local,
                pack(draft.header, draft.body, line, client, sent_ms, draft.core, apart=True),
                draft.delay_ms,
                draft.deadline_ms,
                draft.body,
            )
            for draft in drafts
        ]
        # Registered before the write: the outcome may be pushed before the submit's answer is here.
        entries = self._registry.add(futures, own=True)
        try:
            submitted = submit(first.queue, first.line, items, given=first.given)
        except BaseException:
            self._registry.drop(futures)
            raise
        now = time.monotonic()
        self._server_offset_s = submitted.now_ms / 1000 - now
        self._registry.confirm(entries)
        if not first.given:
            if any(draft.deadline_ms for draft in drafts):
                self._set_deadlines(drafts, futures, now)
                return True
            return False
        # A given id may be somebody else's task, whose outcome is pushed to him, or one that has ended already.
        self._set_deadlines(drafts, futures, now)
        known = [future.id for future, code in zip(futures, submitted.codes, strict=True) if code != "ok"]
        self._registry.hurry(known)
        return True

    def _set_deadlines(self, drafts: Sequence[Draft], futures: Sequence[Awaited], now: float) -> None:
        for draft, future in zip(drafts, futures, strict=True):
            if draft.deadline_ms:
                self._registry.set_deadline(future.id, now + draft.deadline_ms / 1000 + DEADLINE_SLACK_S)


def _chunks(drafts: Sequence[Draft]) -> list[list[int]]:
    """Split drafts into what one round trip each may carry, as places in the sequence."""
    if len(drafts) == 1:
        return [[0]]
    kinds: dict[tuple[object, ...], list[int]] = {}
    for place, draft in enumerate(drafts):
        kinds.setdefault(draft.kind, []).append(place)
    chunks: list[list[int]] = []
    for places in kinds.values():
        chunk: list[int] = []
        size = 0
        for place in places:
            length = len(drafts[place].body)
            if chunk and (len(chunk) == CHUNK_ITEMS or size + length > CHUNK_BYTES):
                chunks.append(chunk)
                chunk, size = [], 0
            chunk.append(place)
            size += length
        chunks.append(chunk)
    return chunks


def _not_kept(doubt: str, drafts: Sequence[Draft], futures: Sequence[Awaited]) -> NotReplicated:
    ids = tuple(future.id for draft, future in zip(drafts, futures, strict=True) if draft.durable)
    what = f"task {ids[0]} is" if len(ids) == 1 else f"{len(ids)} tasks are"
    text = (
        f"{what} queued, but {doubt}. What is queued runs, unless the server loses it: go on with the error's"
        " `accepted`, or submit again with the same ids, which waits once more"
    )
    return NotReplicated(text, ids=ids, accepted=tuple(futures))


def _unknown(error: Exception, futures: Sequence[Awaited], accepted: Sequence[Awaited]) -> SubmitUnknown:
    known = {future.id for future in accepted}
    rest = tuple(future.id for future in futures if future.id not in known)
    text = str(error)
    if accepted:
        text = f"{len(accepted)} of {len(futures)} tasks are queued (see `accepted`), of the others: {text}"
    return SubmitUnknown(text, ids=rest, accepted=tuple(accepted))


def _own_error(error: Exception, future: Awaited) -> Exception:
    """Return an error that this one submitter may raise: not one object for all of them."""
    if isinstance(error, SubmitUnknown):
        return SubmitUnknown(str(error), ids=(future.id,))
    try:
        own = type(error)(*error.args)
    except Exception:
        return error
    own.__dict__.update(error.__dict__)  # such as the id of a group
    own.__cause__ = error.__cause__
    return own
