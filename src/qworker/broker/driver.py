"""Blocking connections of redis-py behind the face of ours: for TLS, URLs with options, and clients that tests bring.

Broker ─► Links ─► Driven ─► redis.Connection
"""

from __future__ import annotations

from collections.abc import Callable
from threading import TIMEOUT_MAX
from typing import Any
from urllib.parse import parse_qsl, urlencode

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS
from redis.exceptions import RedisError
from redis.retry import Retry

from .connection import check_url, code_of, options
from .links import LONGEST_MS, Link


def connect(url: str, *, name: str, timeout_s: float) -> redis.Redis:
    """Make a client; nothing is sent yet. `name` is what CLIENT LIST shows."""
    pool: Any = redis.ConnectionPool.from_url(
        check_url(url), **options(url, name, timeout_s, timeout_s, Retry(NoBackoff(), 0))
    )
    return redis.Redis.from_pool(pool)


# Options of which the text is the value. redis-py would take it for an object, too: a parser, a function.
_WORDS = frozenset({"username", "password", "client_name", "encoding", "encoding_errors", "lib_name",
                    "lib_version"})  # fmt: skip
_AMOUNTS = frozenset({"socket_timeout", "socket_connect_timeout", "socket_read_size"})


def wrong_option(url: str) -> str:
    """Say which option of a URL redis-py does not know, or with which value it can make no connection; empty: none."""
    server, _, query = url.partition("?")
    return next(filter(None, (_refusal(server, name, value) for name, value in parse_qsl(query))), "")


def _refusal(server: str, name: str, value: str) -> str:
    if name == "decode_responses":
        return "its option 'decode_responses' cannot be used: qworker reads bytes"
    if not (name in URL_QUERY_ARGUMENT_PARSERS or name in _WORDS or name.startswith("ssl_")):
        return f"there is no option {name[:80]!a}"
    try:
        pool: Any = redis.ConnectionPool.from_url(f"{server}?{urlencode({name: value})}", protocol=2)
        pool.make_connection()
    except TypeError:
        hint = "; those of TLS are for rediss://" if name.startswith("ssl_") else ""
        return f"there is no option {name[:80]!a} for such a server{hint}"
    except ValueError:
        return f"its option {name!a} has a value that cannot be read"
    except Exception as error:
        return f"its option {name!a} cannot be used: {str(error).rstrip('.')}"
    if name == "protocol" and value != "2":
        return "its option 'protocol' cannot be used: qworker reads answers of protocol 2 only"
    if name in _AMOUNTS and not 0 < float(value) < TIMEOUT_MAX:
        return f"its option {name!a} cannot be used: expected a number above 0"
    return ""


def of_client(client: redis.Redis) -> Callable[[], Link]:
    """Return what makes connections as a client of redis-py's does."""
    pool: Any = client.connection_pool
    return lambda: Driven(pool.make_connection())


def translated(error: RedisError) -> Exception:
    """Return what our own connections would raise."""
    code = code_of(error)
    if not code:
        kind = TimeoutError if isinstance(error, redis.TimeoutError) else ConnectionError
        return kind(str(error))
    text = str(error)
    return hiredis.ReplyError(text if text.startswith(code) else f"{code} {text}")


def inside(reply: Any) -> Any:
    """Return a reply, with the errors in it (of a transaction's commands) as our own connections would have them."""
    if isinstance(reply, list):
        return [translated(part) if isinstance(part, RedisError) else part for part in reply]
    return reply


class Driven:
    """One connection of redis-py's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def open(self) -> None:
        self._do(self._connection.connect)

    def send(self, *packed: bytes) -> None:
        self._do(self._connection.send_packed_command, packed, check_health=False)

    def reply(self) -> Any:
        return inside(self._do(self._connection.read_response, disconnect_on_error=False))

    def waits(self, timeout_s: float) -> bool:
        found: bool = self._do(self._connection.can_read, min(timeout_s, LONGEST_MS / 1000))
        return found

    def take(self, *, came: bool = False) -> Any:  # noqa: ARG002  (what a poll saw may be TLS's own)
        # redis-py does not tell the first bytes of a message from the whole of it, and waits for the rest.
        return self.reply() if self.waits(0) else None

    def held(self) -> bool:
        return self.waits(0)

    def ping(self) -> bool:
        return False  # TLS cannot write while another thread reads

    def fresh(self) -> bool:
        try:
            return not self.waits(0)
        except OSError:
            return False  # the server has closed it

    def fileno(self) -> int:
        number: int = self._connection._sock.fileno()
        return number

    def close(self) -> None:
        self._connection.disconnect()

    def _do(self, ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return ask(*args, **options)
        except RedisError as error:
            raise translated(error) from error
