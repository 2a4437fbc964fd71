"""A cluster: which of its servers a call goes to. One queue is one slot, so each call of a queue has one server.

    redis+cluster://user:password@box-1:6379,box-2:6379 ─► Cluster ── CLUSTER SLOTS ─► which server has which slots
                                                             │
    Broker, AsyncBroker ── call ─► its first key ─► CRC16 of its tag ─► that server's connections
                                        MOVED, a lost connection ─► the map is read anew, and the call is sent again

What has no key (what is published, subscribed to, or asked of a server) goes to whichever answers: pushes reach all.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import parse_qsl, urlencode

from .calls import Call
from .hello import FAULTS, can_be_reached, pack
from .links import Link, Links
from .sentinel import ASK_S

__all__ = ["Cluster", "ClusterLinks", "is_cluster", "survey"]

SLOTS = 16_384
QUESTION = pack(("CLUSTER", "SLOTS"))
_PORT = 6379
_FORM = "redis+cluster://user:password@host:6379,host:6379"
_KEYLESS = frozenset({"PUBLISH", "TIME", "INFO", "CONFIG", "PING", "CLIENT", "CLUSTER", "ROLE", "WAIT", "WAITAOF"})


def is_cluster(url: str) -> bool:
    """Say whether a URL names a cluster."""
    return url.partition("://")[0].endswith("+cluster")


def slot_of(key: bytes | str) -> int:
    """The slot of a key: that of its tag, the first part in braces, if it has one."""
    data = key.encode() if isinstance(key, str) else key
    opened = data.find(b"{")
    closed = data.find(b"}", opened + 1)
    if opened >= 0 and closed > opened + 1:
        data = data[opened + 1 : closed]
    return binascii.crc_hqx(data, 0) % SLOTS


def key_of(call: Call[Any]) -> bytes | str | None:
    """A key of a call, all of which are in one slot; None: it has none."""
    if call.keys:
        key = call.keys[0]
    elif call.script is None and len(call.args) > 1 and call.args[0] not in _KEYLESS:
        key = call.args[1]
    else:
        return None
    return key if isinstance(key, bytes) else str(key)


class Cluster:
    """The servers that a URL names, and what they said of the slots."""

    def __init__(self, url: str) -> None:
        """Read a URL.

        Raises:
            ValueError: it is none of a cluster.
        """
        scheme, _, rest = url.partition("://")
        self._scheme = scheme.removesuffix("+cluster")
        rest, _, query = rest.partition("?")
        where, _, path = rest.partition("/")
        self._auth, self._at, hosts = where.rpartition("@")
        if self._scheme not in ("redis", "rediss") or path not in ("", "0"):
            raise ValueError(f"expected {_FORM}; a cluster has no databases")
        options = parse_qsl(query, keep_blank_values=True)
        self._options = "?" + urlencode(options) if options else ""
        self._seeds = [self._seed(host) for host in hosts.split(",")]
        # Or a password that was not quoted holds a bracket, a slash, a number sign.
        if not all(map(can_be_reached, self._seeds)):
            raise ValueError(f"expected {_FORM}")
        self._ranges: list[tuple[int, int, str]] = []
        self._nodes: list[str] = []

    def _seed(self, member: str) -> str:
        host, colon, port = member.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = member, str(_PORT)
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise ValueError(f"expected {_FORM}")
        return self._url(host, int(port))

    def _url(self, host: str, port: int) -> str:
        return f"{self._scheme}://{self._auth}{self._at}{host}:{port}/0{self._options}"

    def members(self) -> list[str]:
        """The servers to be asked: those that were last known, and those that the URL names."""
        return list(dict.fromkeys([*self._nodes, *self._seeds]))

    def where(self, call: Call[Any]) -> str:
        """The URL of the server that has the slot of a call; empty: the map has to be read."""
        key = key_of(call)
        if key is None:
            return self._nodes[0] if self._ranges else ""
        return self.has(slot_of(key))

    def has(self, slot: int) -> str:
        """The URL of the server that has a slot; empty: the map has to be read."""
        return next((url for first, last, url in self._ranges if first <= slot <= last), "")

    def forget(self) -> None:
        """Something is not as the map says."""
        self._ranges = []

    def read(self, asked: str, reply: Any) -> None:
        """Take in what a server said."""
        ranges = []
        for first, last, (host, port, *_), *_ in reply:
            name = (host or b"").decode()
            if name in ("", "?"):  # the one that was asked, which does not know its own name
                name = asked.rpartition("@")[2].partition("://")[2] or asked.rpartition("@")[2]
                name = name.partition("/")[0].rpartition(":")[0]
            name = f"[{name}]" if ":" in name and not name.startswith("[") else name
            url = self._url(name, int(port))
            if not can_be_reached(url):
                raise ValueError("no address")
            ranges.append((int(first), int(last), url))
        self._ranges = ranges
        primaries = list(dict.fromkeys(url for _, _, url in ranges))
        # Who answered is up: keyless calls go there.
        self._nodes = sorted(primaries, key=lambda url: url != asked)


def survey(cluster: Cluster) -> Generator[str, Any, None]:
    """Read the map: yields the URL of a server to ask, is sent its answer or its error.

    Raises:
        ConnectionError: none of them answers.
    """
    reasons: list[str] = []
    for member in cluster.members():
        try:
            reply = yield member
        except FAULTS as error:
            reasons.append(str(error) or type(error).__name__)
            continue
        try:
            if reply:
                cluster.read(member, reply)
                return
            reasons.append("it knows no slots")
        except (ValueError, TypeError, AttributeError):  # nobody of ours wrote it
            reasons.append("it answers with what is no map of slots")
    raise ConnectionError(f"none of {len(reasons)} server(s) of the cluster says who has what: {'; '.join(reasons)}")


class ClusterLinks(Links):
    """The blocking connections to the servers of a cluster; those that are for no key go to any of them."""

    def __init__(self, cluster: Cluster, link_to: Callable[[str, float | None], Link]) -> None:
        super().__init__(lambda: link_to(self.primary(), None))
        self._cluster, self._link_to = cluster, link_to
        self._servers: dict[str, Links] = {}

    def toward(self, call: Call[Any]) -> Links:
        """The connections to the server that a call is for."""
        url = self._cluster.where(call)
        if not url:
            self._look()
            url = self._cluster.where(call)
            if not url:
                raise ConnectionError("no server of the cluster has its slot")
        found = self._servers.get(url)
        if found is None:
            found = self._servers[url] = Links(lambda: self._link_to(url, None))
        return found

    def forget(self) -> None:
        """A call failed: the cluster may not be as it was."""
        self._cluster.forget()

    def close(self) -> None:
        super().close()
        for links in list(self._servers.values()):
            links.close()

    def primary(self) -> str:
        """Return the URL of one that answers."""
        return self._look()

    def _look(self) -> str:
        search = survey(self._cluster)
        asked = next(search)
        try:
            while True:
                link = self._link_to(asked, ASK_S)
                try:
                    link.open()
                    link.send(QUESTION)
                    reply = link.reply()
                except FAULTS as error:
                    asked = search.throw(error)
                else:
                    asked = search.send(reply)
                finally:
                    link.close()
        except StopIteration:
            return asked
