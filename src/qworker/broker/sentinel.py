"""A URL that names sentinels, and how the primary is found that they watch.

    redis+sentinel://user:password@box-1:26379,box-2:26379/service/0 ─► Sentinels ─► redis://user:password@primary:6379/0
                                                                            │
    Broker, AsyncBroker ── each new connection ─► find ─► SENTINEL GET-MASTER-ADDR-BY-NAME ─► ROLE: is it one?

Nothing is remembered: each connection asks anew, and only those that broke are replaced. So after a failover the next
try of a call finds the new primary, and sends the same ids. Options of the URL are the primary's, but for
`sentinel_username` and `sentinel_password`; rediss+sentinel is TLS to both. The same on asyncio: found.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from .hello import FAULTS, can_be_host, can_be_reached, pack
from .links import Link, Links

__all__ = ["FoundLinks", "Sentinels", "find"]

T = TypeVar("T")
ASK_S = 0.5  # a sentinel that says nothing for so long is passed over
_PORT = 26379
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,255}")
_FORM = "redis+sentinel://user:password@host:26379,host:26379/service/0"


class Sentinels:
    """The sentinels of one service. The one that answered last is asked first."""

    def __init__(self, scheme: str, members: list[str], service: str, primary: tuple[str, str]) -> None:
        self.members = members  # their URLs
        self.service = service
        self._scheme = scheme
        self._primary = primary  # its URL: what is before its address, and behind it

    @classmethod
    def of(cls, url: str) -> Sentinels | None:
        """Read a URL; None when it names no sentinels.

        Raises:
            ValueError: it names them in another way than is understood.
        """
        scheme, found, rest = url.partition("://")
        if not found or not scheme.endswith("+sentinel"):
            return None
        scheme = scheme.removesuffix("+sentinel")
        rest, _, query = rest.partition("?")
        where, _, path = rest.partition("/")
        auth, at, hosts = where.rpartition("@")
        service, _, db = path.partition("/")
        own: dict[str, str] = {}
        options: list[tuple[str, str]] = []
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in ("sentinel_username", "sentinel_password"):
                own[name.removeprefix("sentinel_")] = value
            elif name.startswith("sentinel_"):
                raise ValueError(f"there is no option {name}")
            else:
                options.append((name, value))
        if scheme not in ("redis", "rediss") or not service or not (db.isdigit() or not db):
            raise ValueError(f"expected {_FORM}")
        tls = "?" + urlencode(options) if scheme == "rediss" and options else ""
        user = quote(own.get("username", ""), safe="")
        auth_there = f"{user}:{quote(own['password'], safe='')}@" if "password" in own else ""
        members = [f"{scheme}://{auth_there}{_with_port(host)}{tls}" for host in hosts.split(",")]
        asked = "?" + urlencode(options) if options else ""
        # Not a template of braces: a password may have some.
        made = cls(scheme, members, unquote(service), (f"{scheme}://{auth}{at}", f"/{db or 0}{asked}"))
        # Or a password that was not quoted holds a bracket, a slash, a number sign.
        if "@" in path or not all(map(can_be_reached, [*members, made.primary("h", "1")])):
            raise ValueError(f"expected {_FORM}")
        return made

    def primary(self, host: str, port: str) -> str:
        """The URL of a primary at that address."""
        before, behind = self._primary
        return before + (f"[{host}]:{port}" if ":" in host else f"{host}:{port}") + behind


def _with_port(member: str) -> str:
    host, colon, port = member.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = member, str(_PORT)
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ValueError(f"expected {_FORM}")
    return f"{host}:{port}"


def find(sentinels: Sentinels) -> Generator[str, Any, str]:
    """Look for the primary: yields the URL of a sentinel to ask, is sent its answer or its error.

    Raises:
        ConnectionError: none of them knows.
    """
    reasons: list[str] = []
    for member in list(sentinels.members):
        try:
            reply = yield member
        except FAULTS as error:
            reasons.append(str(error) or type(error).__name__)
            continue
        if not reply:
            reasons.append(f"it knows no service {sentinels.service!r}")
            continue
        address = _address(reply)
        if address is None:
            reasons.append("it answers with what is no address")
            continue
        # Another thread may do the same: it is one list or the other, each with all of them.
        sentinels.members = [member, *(other for other in sentinels.members if other != member)]
        return sentinels.primary(*address)
    count = len(sentinels.members)
    raise ConnectionError(f"none of {count} sentinel(s) names a primary of {sentinels.service!r}: {'; '.join(reasons)}")


def _address(reply: Any) -> tuple[str, str] | None:
    """Read a sentinel's answer; None for what no sentinel says."""
    try:
        host, port = (part.decode("ascii") for part in reply)
    except (ValueError, TypeError, AttributeError):
        return None
    fits = _HOST.fullmatch(host) and can_be_host(host) and port.isdigit() and 0 < int(port) < 65536
    return (host, port) if fits else None


def question(sentinels: Sentinels) -> bytes:
    """What a sentinel is asked."""
    return pack(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinels.service))


def refuse_replica(role: Any, url: str) -> None:
    """Raise what a server's answer to ROLE means, unless it is a primary: the sentinels may not know yet."""
    if not isinstance(role, list) or role[:1] != [b"master"]:
        server = urlsplit(url).netloc.rpartition("@")[2]  # no option: it may be a password
        raise ConnectionError(f"the server at {server}, named as primary, is none (any more, or yet)")


class FoundLinks(Links):
    """The blocking connections to whichever server is the primary."""

    def __init__(self, sentinels: Sentinels, link_to: Callable[[str, float | None], Link]) -> None:
        """Connect to nothing yet. `link_to` makes a connection to a URL, with a time limit of its own or without."""
        super().__init__(self._unused)
        self._sentinels, self._link_to = sentinels, link_to
        self._last = ""

    @staticmethod
    def _unused() -> Link:
        raise AssertionError("each connection goes where the sentinels say")

    def primary(self) -> str:
        """Return the primary's URL."""
        search = find(self._sentinels)
        try:
            member = next(search)
            while True:
                link = self._link_to(member, ASK_S)
                try:
                    link.open()
                    link.send(question(self._sentinels))
                    reply = link.reply()
                except FAULTS as error:
                    member = search.throw(error)
                else:
                    member = search.send(reply)
                finally:
                    link.close()
        except StopIteration as found:
            url: str = found.value
            return url

    def make(self) -> Link:
        """Return a new connection to the primary, which belongs to whoever asked."""
        url = self.primary()
        if url != self._last:
            self._last = url
            self.drop_idle()  # those go to another server
        link = self._link_to(url, None)
        try:
            link.open()
            link.send(pack(("ROLE",)))
            refuse_replica(link.reply(), url)
        except BaseException:
            link.close()
            raise
        self.made += 1
        return link
