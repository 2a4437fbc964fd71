"""A model of the server's data: the commands that qworker uses, and its own Lua scripts run by a Lua 5.1 in process.

    store.command(b"EVALSHA", …) ─► the script as it is sent ─► redis.call ─► the same few commands on plain values

The scripts are the product's, unchanged. The commands are checked by the model tests of the scripts, for which this is
one more back end (tests/property), beside Redis and Valkey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import lupa.lua51

from qworker.broker import scripts

Reply = Any  # None, int, bytes, list of replies, or an Error


class Error(Exception):
    """What the server answers instead of a reply."""


_PRELUDE = """
local listy, plain, fail = ...
local error_reply = function(text) return { err = text } end
local server = {
  call = function(command, ...)
    local f = listy[command]
    if f then return { f(...) } end
    f = plain[command]
    if not f then error('the model has no ' .. command) end
    if command == 'LPOP' and select('#', ...) > 1 then
      local taken = { f(...) }
      return taken[1] and taken
    end
    return f(...)
  end,
  error_reply = error_reply,
}
server.pcall = function(...)
  local found = { pcall(server.call, ...) }
  if found[1] then return found[2] end
  return { err = tostring(found[2]) }
end
return function(chunk, keys, args)
  redis, KEYS, ARGV = server, keys, args
  local reply = chunk()
  if type(reply) ~= 'table' then return false, reply end
  if reply.err then return nil, reply.err end
  return true, unpack(reply)
end
"""


def _number(text: bytes) -> float:
    if text in (b"+inf", b"inf"):
        return float("inf")
    return float("-inf") if text == b"-inf" else float(text)


def _score(score: float) -> bytes:
    return b"%d" % score if score == int(score) else repr(score).encode()


def _text(arg: Any) -> bytes:
    """An argument as a script gives it."""
    if isinstance(arg, bytes):
        return arg
    return str(arg).encode() if isinstance(arg, int) else b"%.17g" % arg


class Store:
    """Keys and values, and the scripts that were loaded. Atomic by being called, as the server is by its one thread."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.published: Callable[[bytes, bytes], int] = lambda *_: 0
        self.listening: Callable[[bytes], int] = lambda _: 0
        self.pushed: Callable[[bytes], object] = lambda _: None  # a list was pushed to
        self.outcome: Callable[[bytes, bytes], object] = lambda *_: None  # a string was set
        self.data: dict[bytes, Any] = {}
        self.loaded: set[bytes] = set()
        self.full = False  # above its limit of memory
        self.refuses = ""  # what it answers instead of writing anything
        self._expires: dict[bytes, int] = {}
        self._commands: dict[bytes, Callable[..., Any]] = {
            name[4:].upper().encode(): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }
        self._lua = lupa.lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._run = self._runner(lambda _, call: call)
        self._run_unwilling = self._runner(self._unless_unwilling)
        self._wrote = False  # the script that runs
        self._chunks: dict[bytes, Any] = {}
        self._shas: dict[bytes, bytes] = {}

    def _runner(self, seen_as: Callable[[bytes, Callable[..., Any]], Callable[..., Any]]) -> Any:
        """What runs a script with the commands as they are seen."""
        listy, plain = self._lua.table(), self._lua.table()
        for name, call in self._commands.items():
            (listy if name in _LISTS else plain)[name] = self._from_lua(seen_as(name, call), name)
        return self._lua.execute(_PRELUDE, listy, plain)

    def reset(self) -> None:
        """Everything is gone, as if it had never been."""
        self.full, self.refuses = False, ""
        self.data.clear()
        self._expires.clear()
        self.loaded.clear()

    def forget(self) -> None:
        """Hold on to nothing of the simulation that used it."""
        self.published, self.listening = lambda *_: 0, lambda _: 0
        self.pushed, self.outcome = lambda _: None, lambda *_: None
        self.now_ms = lambda: 0

    def command(self, *parts: Any) -> Reply:
        """Do one command. Raises Error for what the server answers as one."""
        self.expire()
        name = parts[0]
        if name == b"EVALSHA":
            return self._evalsha(parts)
        if name == b"SCRIPT":
            return self._script(parts)
        if self.full or self.refuses:
            self.check(name)
        reply = self._commands[name](*parts[1:])
        if isinstance(reply, tuple):
            return [None if part is False else part for part in reply]
        return None if reply is False else reply

    def check(self, name: bytes) -> None:
        """Refuse a command that a server in this state does not do.

        A full one does what makes something smaller, and in a script whatever follows that (`scriptVerifyOOM` in Redis'
        script.c).
        """
        if self.refuses and name in _GROWS | _WRITES:
            raise Error(self.refuses)
        if self.full and name in _GROWS:
            raise Error("OOM command not allowed when used memory > 'maxmemory'.")

    def _unless_unwilling(self, name: bytes, call: Callable[..., Any]) -> Callable[..., Any]:
        if name not in _GROWS | _WRITES:
            return call

        def checked(*args: Any) -> Any:
            if not self._wrote:
                self.check(name)
            self._wrote = True
            return call(*args)

        return checked

    def expire(self) -> None:
        """Let go of what has had its time."""
        if self._expires:
            now = self.now_ms()
            for key in [key for key, at in self._expires.items() if at <= now]:
                self._drop(key)

    def _script(self, parts: tuple[Any, ...]) -> Reply:
        if parts[1] == b"FLUSH":
            self.loaded.clear()
            return b"OK"
        sha = self._shas.get(parts[2])  # all scripts are loaded for each history anew
        if sha is None:
            sha = self._shas[parts[2]] = hashlib.sha1(parts[2], usedforsecurity=False).hexdigest().encode()
            self._chunks[sha] = self._lua.compile(parts[2])
        self.loaded.add(sha)
        return sha

    def _evalsha(self, parts: tuple[Any, ...]) -> Reply:
        sha = parts[1]
        if sha not in self.loaded:
            raise Error("NOSCRIPT No matching script. Please use EVAL.")
        last = 3 + int(parts[2])
        table = self._lua.table_from
        run, self._wrote = self._run_unwilling if self.full or self.refuses else self._run, False
        kind, *reply = run(self._chunks[sha], table(parts[3:last]), table(parts[last:]))
        if kind is None:
            raise Error(reply[0].decode())
        reply = [_from_script(part) for part in reply]
        return reply if kind else reply[0]

    @staticmethod
    def _from_lua(call: Callable[..., Any], name: bytes) -> Callable[..., Any]:
        # Numbers that a script gives are text for the server; most arguments are text already.
        if name in _NUMBERS:
            return lambda *args: call(*[arg if type(arg) is bytes else _text(arg) for arg in args])
        return call

    def _drop(self, key: bytes) -> int:
        self._expires.pop(key, None)
        return int(self.data.pop(key, None) is not None)

    def _tidy(self, key: bytes) -> None:
        if not self.data.get(key, True):
            self._drop(key)

    # ── keys and strings ─────────────────────────────────────────────────────────────────────────────────────────

    def _do_ping(self) -> Any:
        return b"PONG"

    def _do_time(self) -> Any:
        now = self.now_ms()
        return (b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000))

    def _do_exists(self, *keys: bytes) -> Any:
        return sum(key in self.data for key in keys)

    def _do_del(self, *keys: bytes) -> Any:
        return sum(self._drop(key) for key in keys)

    def _do_rename(self, key: bytes, to: bytes) -> Any:
        assert key in self.data, "no such key"
        self._drop(to)
        self.data[to] = self.data.pop(key)
        if isinstance(self.data[to], bytes):
            self.outcome(to, self.data[to])
        if key in self._expires:
            self._expires[to] = self._expires.pop(key)
        return b"OK"

    def _do_pexpire(self, key: bytes, ms: bytes) -> Any:
        if key not in self.data:
            return 0
        self._expires[key] = self.now_ms() + int(ms)
        return 1

    def _do_pttl(self, key: bytes) -> Any:
        if key not in self.data:
            return -2
        return self._expires[key] - self.now_ms() if key in self._expires else -1

    def _do_get(self, key: bytes) -> Any:
        return self.data.get(key, False)

    def _do_getrange(self, key: bytes, first: bytes, last: bytes) -> Any:
        return self.data.get(key, b"")[int(first) : int(last) + 1]

    def _do_set(self, key: bytes, value: bytes, *options: bytes) -> Any:
        self.data[key] = value
        self.outcome(key, value)
        self._expires.pop(key, None)
        if options:
            assert options[0] == b"PX", options
            self._expires[key] = self.now_ms() + int(options[1])
        return b"OK"

    def _do_publish(self, channel: bytes, message: bytes) -> Any:
        return self.published(channel, message)

    def _do_pubsub(self, verb: bytes, channel: bytes) -> Any:
        assert verb == b"NUMSUB"
        return (channel, self.listening(channel))

    # ── hashes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _do_hget(self, key: bytes, field: bytes) -> Any:
        found = self.data.get(key)
        return False if found is None else found.get(field, False)

    def _do_hmget(self, key: bytes, *fields: bytes) -> Any:
        found = self.data.get(key, {})
        return tuple([found.get(field, False) for field in fields])

    def _do_hgetall(self, key: bytes) -> Any:
        return tuple([part for pair in self.data.get(key, {}).items() for part in pair])

    def _do_hset(self, key: bytes, *pairs: bytes) -> Any:
        assert pairs, "wrong number of arguments"
        found = self.data.setdefault(key, {})
        before = len(found)
        found.update(zip(pairs[0::2], pairs[1::2], strict=True))
        return len(found) - before

    def _do_hsetnx(self, key: bytes, field: bytes, value: bytes) -> Any:
        found = self.data.setdefault(key, {})
        if field in found:
            return 0
        found[field] = value
        return 1

    def _do_hdel(self, key: bytes, *fields: bytes) -> Any:
        found = self.data.get(key)
        if found is None:
            return 0
        count = sum(found.pop(field, None) is not None for field in fields)
        self._tidy(key)
        return count

    def _do_hstrlen(self, key: bytes, field: bytes) -> Any:
        return len(self.data.get(key, {}).get(field, b""))

    def _do_hlen(self, key: bytes) -> Any:
        return len(self.data.get(key, ()))

    def _do_hexists(self, key: bytes, field: bytes) -> Any:
        return int(field in self.data.get(key, ()))

    def _do_hincrby(self, key: bytes, field: bytes, by: bytes) -> Any:
        found = self.data.setdefault(key, {})
        value = int(found.get(field, b"0")) + int(by)
        found[field] = b"%d" % value
        return value

    # ── sets and lists ───────────────────────────────────────────────────────────────────────────────────────────

    def _do_sadd(self, key: bytes, *members: bytes) -> Any:
        found = self.data.setdefault(key, {})
        before = len(found)
        found.update(dict.fromkeys(members))
        return len(found) - before

    def _do_smembers(self, key: bytes) -> Any:
        return tuple(self.data.get(key, ()))

    def _do_llen(self, key: bytes) -> Any:
        return len(self.data.get(key, ()))

    def _do_lpush(self, key: bytes, *values: bytes) -> Any:
        found = self.data.setdefault(key, [])
        found[:0] = values[::-1]
        self.pushed(key)
        return len(found)

    def _do_rpush(self, key: bytes, *values: bytes) -> Any:
        found = self.data.setdefault(key, [])
        found.extend(values)
        self.pushed(key)
        return len(found)

    def _do_lpop(self, key: bytes, count: bytes | None = None) -> Any:
        return self._pop(key, count, 0)

    def _do_rpop(self, key: bytes, count: bytes | None = None) -> Any:
        return self._pop(key, count, -1)

    def _pop(self, key: bytes, count: bytes | None, end: int) -> Any:
        found = self.data.get(key)
        if found is None:
            return False
        taken = tuple(found.pop(end) for _ in range(min(len(found), int(count or 1))))
        self._tidy(key)
        return taken[0] if count is None else taken

    def _do_lrange(self, key: bytes, first: bytes, last: bytes) -> Any:
        return tuple(_slice(self.data.get(key, []), int(first), int(last)))

    def _do_lrem(self, key: bytes, count: bytes, value: bytes) -> Any:
        found = self.data.get(key)
        if found is None:
            return 0
        most, gone = abs(int(count)) or len(found), 0
        order = range(len(found)) if int(count) >= 0 else range(len(found) - 1, -1, -1)
        places = [place for place in order if found[place] == value][:most]
        for place in sorted(places, reverse=True):
            del found[place]
            gone += 1
        self._tidy(key)
        return gone

    def _do_ltrim(self, key: bytes, first: bytes, last: bytes) -> Any:
        if key in self.data:
            self.data[key][:] = _slice(self.data[key], int(first), int(last))
            self._tidy(key)
        return b"OK"

    def _do_lpos(self, key: bytes, value: bytes, *options: bytes) -> Any:
        found = self.data.get(key, [])
        return found.index(value) if value in found else False

    # ── sorted sets ──────────────────────────────────────────────────────────────────────────────────────────────

    def _do_zadd(self, key: bytes, *parts: bytes) -> Any:
        found = self.data.setdefault(key, {})
        before = len(found)
        at = 0
        options: set[bytes] = set()
        while parts[at] in (b"NX", b"XX", b"GT", b"LT", b"CH"):
            options.add(parts[at])
            at += 1
        for score, member in zip(parts[at::2], parts[at + 1 :: 2], strict=True):
            known = found.get(member)
            if (b"NX" in options and known is not None) or (b"XX" in options and known is None):
                continue
            if b"GT" in options and known is not None and known >= _number(score):
                continue
            found[member] = _number(score)
        added = len(found) - before
        self._tidy(key)
        return added

    def _do_zrem(self, key: bytes, *members: bytes) -> Any:
        return self._do_hdel(key, *members)

    def _do_zpopmin(self, key: bytes, count: bytes = b"1") -> Any:
        first = self._sorted(key)[: int(count)]
        self._do_hdel(key, *[member for member, _ in first])
        return _shown(first, (b"WITHSCORES",))

    def _do_zcard(self, key: bytes) -> Any:
        return len(self.data.get(key, ()))

    def _do_zscore(self, key: bytes, member: bytes) -> Any:
        score = self.data.get(key, {}).get(member)
        return False if score is None else _score(score)

    def _sorted(self, key: bytes) -> list[tuple[bytes, float]]:
        found = self.data.get(key)
        return sorted(found.items(), key=lambda pair: (pair[1], pair[0])) if found else []

    def _do_zrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Any:
        return _shown(_slice(self._sorted(key), int(first), int(last)), options)

    def _do_zrangebyscore(self, key: bytes, low: bytes, high: bytes, *options: bytes) -> Any:
        return _shown(_limited(self._between(key, low, high), options), options)

    def _do_zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> Any:
        return self._do_hdel(key, *[member for member, _ in self._between(key, low, high)])

    def _between(self, key: bytes, low: bytes, high: bytes) -> list[tuple[bytes, float]]:
        least, most = _number(low.lstrip(b"(")), _number(high.lstrip(b"("))
        return [
            (member, score)
            for member, score in self._sorted(key)
            if (score > least if low[:1] == b"(" else score >= least)
            and (score < most if high[:1] == b"(" else score <= most)
        ]

    def _do_zrangebylex(self, key: bytes, low: bytes, high: bytes) -> Any:
        return tuple(
            member
            for member, _ in self._sorted(key)
            if (member > low[1:] if low[:1] == b"(" else member >= low[1:])
            and (member < high[1:] if high[:1] == b"(" else member <= high[1:])
        )


def _slice(values: list[Any], first: int, last: int) -> list[Any]:
    first = max(0, first + len(values)) if first < 0 else first
    last = last + len(values) if last < 0 else last
    return values[first : last + 1]


def _limited(pairs: list[Any], options: tuple[bytes, ...]) -> list[Any]:
    if b"LIMIT" not in options:
        return pairs
    at = options.index(b"LIMIT")
    skip, count = int(options[at + 1]), int(options[at + 2])
    return pairs[skip : skip + count] if count >= 0 else pairs[skip:]


def _shown(pairs: list[tuple[bytes, float]], options: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if b"WITHSCORES" in options:
        return tuple(part for member, score in pairs for part in (member, _score(score)))
    return tuple(member for member, _ in pairs)


def _from_script(part: Any) -> Reply:
    """A value of Lua as the client sees it."""
    if part is False:
        return None
    if part is True:
        return 1
    if part is None or isinstance(part, bytes):
        return part
    if isinstance(part, int | float):
        return int(part)
    return [_from_script(each) for each in part.values()]


# These answer with a list; of the others each answer is one value.
_LISTS = frozenset(
    (
        b"HMGET",
        b"HGETALL",
        b"LRANGE",
        b"SMEMBERS",
        b"TIME",
        b"ZRANGE",
        b"ZRANGEBYSCORE",
        b"ZRANGEBYLEX",
        b"ZPOPMIN",
        b"PUBSUB",
    )
)
# What a full server refuses, and what else writes: COMMAND INFO of Redis 7.0.
_GROWS = frozenset((b"SET", b"HSET", b"HSETNX", b"HINCRBY", b"SADD", b"LPUSH", b"RPUSH", b"ZADD"))
_WRITES = frozenset((
    b"DEL", b"RENAME", b"PEXPIRE", b"HDEL", b"LPOP", b"RPOP", b"LREM", b"LTRIM", b"ZREM", b"ZPOPMIN",
    b"ZREMRANGEBYSCORE", b"BLPOP",
))  # fmt: skip
# To these scripts also give numbers.
_NUMBERS = frozenset((
    b"HSET", b"HINCRBY", b"PEXPIRE", b"GETRANGE", b"SET", b"LPUSH", b"RPUSH", b"LRANGE", b"LREM", b"LTRIM", b"LPOP",
    b"RPOP", b"LPOS", b"ZADD", b"ZRANGE", b"ZRANGEBYSCORE", b"ZREMRANGEBYSCORE", b"HSETNX",
))  # fmt: skip


def load_all(store: Store) -> None:
    """Have a store know all scripts already."""
    for name in scripts.names():
        store.command(b"SCRIPT", b"LOAD", scripts.load(name).text)
