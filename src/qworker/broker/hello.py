"""Where a server is and who we are there, and the words with which a connection to it begins.

url ─► Address ─┬─► Plain (sockets.py), on asyncio    ─┐
                └─► Link (links.py), blocking         ─┴─► hello, and `judge` for each of its answers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

# Packed in C; its stub knows only commands of one word.
pack: Callable[[Sequence[Any]], bytes] = cast("Any", hiredis.pack_command)

# What may go wrong while a call is under way, and be repaired by sending it again. A TimeoutError is an OSError.
FAULTS = (hiredis.HiredisError, OSError)

# What moves is not given up, for sent anew it would only take as long again. A large answer may take so many times as
# long as an attempt may, if in each of these times some of it comes; and an answer to a large command comes later by
# what its bytes take at this pace, for nobody here sees them move beyond the kernel's buffers.
PATIENCE = 8
PACE = 1 << 20  # bytes a second

Command = tuple[str | int, ...]


def can_be_reached(url: str) -> bool:
    """Say whether a URL names a host that a resolver can be asked for, or a path, and a port if any that there can be.

    What urllib and sockets say of others is not to be shown: it may quote a part of the password.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return bool(parts.path) and "\0" not in unquote(parts.path)
        can = parts.port is None or parts.port > 0
        return can and "@" not in parts.fragment and can_be_host(unquote(parts.hostname or "localhost"))
    except ValueError:
        return False


def can_be_host(host: str) -> bool:
    """Say whether a host's name can be looked up at all: Python itself fails at the empty part of `.svc` or `a..b`."""
    try:
        labels = (host if host.isascii() else host.encode("idna").decode()).removesuffix(".").split(".")
    except UnicodeError:
        return False
    return host.isprintable() and all(0 < len(label) < 64 for label in labels)


class Address(NamedTuple):
    """Where a server is and who we are there, as its URL says."""

    path: str  # of a unix socket; empty: host and port
    host: str
    port: int
    db: int
    user: str
    password: str

    @classmethod
    def of(cls, url: str) -> Address | None:
        """Return what a checked URL says; None when it asks for more than is known here (TLS, options)."""
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True)
        db = options.pop("db", [parts.path.strip("/") if parts.scheme == "redis" else "0"])[0] or "0"
        if parts.scheme not in ("redis", "unix") or options or parts.fragment or not (db.isascii() and db.isdigit()):
            return None
        if parts.username and not parts.password:
            return None
        return cls(
            unquote(parts.path) if parts.scheme == "unix" else "",
            unquote(parts.hostname or "localhost"),
            parts.port or 6379,
            int(db),
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )

    def hello(self, name: str) -> list[Command]:
        """Return the commands with which a connection of that name begins: all in one write, one round trip."""
        commands: list[Command] = [("CLIENT", "SETNAME", name)]
        if self.password:
            commands.insert(0, ("AUTH", *([self.user] if self.user else []), self.password))
        if self.db:
            commands.append(("SELECT", self.db))
        return commands


def nonsense(error: Exception) -> ConnectionError:
    """Return what it means that hiredis could not read an answer: the rest of it could not be read, either."""
    return ConnectionError(f"the server's answer makes no sense: {str(error) or type(error).__name__}")


def pushed(reply: Any) -> list[Any]:
    """Return what came on a subscribed connection: what it is, a channel, what was said; or two parts, to a PING."""
    if type(reply) is not list or len(reply) < 2 or (reply[0] == b"message" and len(reply) != 3):
        raise ConnectionError(f"the server pushed what is no message: {type(reply).__name__}")
    return reply


def judge(command: Command, error: hiredis.ReplyError) -> None:
    """Raise what an error in answer to one of these commands means, if it means anything."""
    if "max number of clients" in str(error):  # its last words, whatever it was asked; they may pass
        raise ConnectionError(str(error)) from None
    if command[0] == "AUTH" and str(error).startswith("ERR"):
        raise hiredis.ReplyError(f"NOAUTH {error}") from None
    # A name is for people; where it is forbidden, there is none. DENIED are last words, too. After NOAUTH all else is
    # refused like this, or if it is large by an error of the protocol, which tells nobody what is missing.
    if command[0] != "CLIENT" or str(error).startswith(("DENIED", "NOAUTH")):
        raise error
