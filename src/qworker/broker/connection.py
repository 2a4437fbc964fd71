"""Connections to the server, and the one retry loop's rules: what an error means, and what to do about it.

    Broker / AsyncBroker ── one attempt ──► error ──► Attempts.failed() ─► pause and send the same again
                                                                      └─► the typed error that the caller sees

redis-py's own retries are off: it would resend blindly, up to ten times, without a total deadline. Ours resends the
same call (each script knows its repetition) with full jitter, and drops a connection after any error on it.
"""

from __future__ import annotations

import random
import re
import time
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import hiredis

from ..errors import BrokerError, BrokerUnavailable, ConfigError, QWorkerError, ServerFull, ServerUnfit
from .calls import Call
from .cluster import Cluster, is_cluster
from .hello import Address, can_be_reached
from .sentinel import Sentinels

T = TypeVar("T")

_SCHEMES = ("redis", "rediss", "unix")
_CODE = re.compile(r"^-?([A-Z][A-Z]+)\b")
# Before 7.0 the error of a command in a script comes inside another: `ERR Error running script …: -OOM command …`.
_INNER_CODE = re.compile(r"-(OOM|READONLY|MISCONF|NOREPLICAS|MASTERDOWN|CLUSTERDOWN) ")
_FORBIDDEN_IN_SCRIPT = re.compile(r"ACL failure in script|The user executing the script can't run this command")
# What a server adds to the error of a command in a script: `MISCONF … script: <sha>, on @user_script:38.`
_SCRIPT_LINE = re.compile(r" script: (\S+, )?on @\S+$")
_SECRET = re.compile(r"(password=)[^&]*")
# The server is there, but cannot serve just now: the same call again, a little later.
_PASSING = frozenset({"LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "UNBLOCKED"})
# The server knows us not, or not as somebody who may do that: nothing that passes.
_REFUSALS = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
# What a server says that a user may not do: run a command, touch a key, use a channel.
_LACKING = re.compile(r"run the '([^']+)' command|access the '([^']+)' key|access the '([^']+)' channel")
# The other end is not (or no longer) the primary: connect anew, which asks for its address again.
_MOVED_AWAY = frozenset({"READONLY", "MASTERDOWN"})
# A submit that may have been applied is not sent again later than this: its task may have ended at once, and what tells
# a repetition so is kept for 60 s (TOMBSTONE_MS) where the result is not. Then it would run twice.
RESEND_S = 50.0
_LONGEST_S = 15.0  # so that one attempt leaves time for others within those; and no socket takes an endless time
# The connection is in step after these: the answer was whole, and it says what is the matter.
_IN_STEP = frozenset({"NOSCRIPT", "CONFLICT", "OOM", "NOPERM"})


def check_url(url: str) -> str:
    """Return a server's URL, or say why it cannot be one."""
    server = url
    try:
        sentinels = Sentinels.of(url)  # both have looked at their hosts
        if sentinels is not None:
            server, fits = sentinels.primary("h", "1"), True
        elif is_cluster(url):
            server, fits = Cluster(url).members()[0], True
        else:
            parts = urlsplit(url)
            # redis-py takes a database that is no number for database 0, and would fill the wrong one.
            fits = parts.scheme == "unix" or parts.path[1:].isdigit() or not parts.path[1:]
            fits = fits and parts.scheme in _SCHEMES and can_be_reached(url)
    except ValueError as error:  # a port that is no number
        if "+sentinel://" in url or is_cluster(url):
            raise ConfigError(f"url={_short(url)}: {error}") from None
        fits = False
    if not fits:
        raise ConfigError(
            f"url={_short(url)}: expected redis://host:port/0, rediss://host:port/0, unix:///path/to/socket,"
            " redis+sentinel://host:port,host:port/service/0 or redis+cluster://host:port,host:port"
        )
    return _check_options(url, server)


def _check_options(url: str, server: str) -> str:
    """Return a URL if its options, which are those of this server's URL, can be used, or say which one cannot."""
    if urlsplit(server).query and Address.of(server) is None:
        from . import driver  # redis-py, to which such a server is left anyway

        wrong = driver.wrong_option(server)
        if wrong:
            raise ConfigError(f"url={_short(url)}: {wrong}. Correct it, or leave it out")
    return url


def _short(url: str) -> str:
    text = repr(public_url(url))
    return text if len(text) <= 200 else text[:197] + "..."


def public_url(url: str) -> str:
    """A URL without its password, for messages and logs. It may be wrong: then rather too much is left out."""
    scheme, is_url, rest = _SECRET.sub(r"\1***", url).partition("://")
    user, has_user, server = rest.rpartition("@")  # the last: a password that was not escaped may hold anything
    if not is_url:
        return url if "@" not in url else f"{url.partition(':')[0]}:…"
    user = f"{user.partition(':')[0]}:***" if ":" in user else user
    return f"{scheme}://{user}{has_user}{server}"


def options(url: str, name: str, read_s: float | None, connect_s: float, retry: Any) -> dict[str, Any]:
    """Return what a connection of redis-py is made with."""
    made: dict[str, Any] = {
        "client_name": name,
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": read_s,
        "retry": retry,
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "max_connections": 10_000,
    }
    if urlsplit(url).scheme != "unix":
        made |= {"socket_connect_timeout": connect_s, "socket_keepalive": True}
    return made


def wire(call: Call[Any]) -> tuple[Any, ...]:
    """The command that a call is."""
    if call.script is None:
        return tuple(call.args)
    return ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)


def code_of(exc: BaseException) -> str:
    """The server's code for an error, upper case; empty when the error did not come from the server."""
    kinds = [kind.__name__ for kind in type(exc).__mro__]
    if "BusyLoadingError" in kinds:
        return "LOADING"
    code = getattr(exc, "status_code", None)
    if isinstance(code, str) and code:
        return code
    for kind in kinds:
        if kind in _CODE_OF_CLASS:
            return _CODE_OF_CLASS[kind]
    if "ResponseError" not in kinds and "ReplyError" not in kinds:
        return ""
    text = str(exc)
    if _FORBIDDEN_IN_SCRIPT.search(text):  # some servers call it ERR
        return "NOPERM"
    inner, outer = _INNER_CODE.search(text), _CODE.search(text)
    found = inner or outer
    return found[1] if found is not None else "ERR"


# redis-py takes the code out of the text of these. By their names, so that a worker need not import it.
_CODE_OF_CLASS = {
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "NoPermissionError": "NOPERM",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "AuthenticationError": "NOAUTH",
}


class AppliedAnywayError(hiredis.ReplyError):
    """The server's error for a part of a call whose script was run all the same."""


class Attempts(Generic[T]):
    """The tries of one call, from the first sending to its answer or its typed error.

    Owned by one driver for one call: it says what to send next (`call`, after `load` if that is set), is told of each
    failure, and answers with a pause or raises what the caller of the verb is to see.
    """

    def __init__(self, call: Call[T], *, url: str, timeout_s: float) -> None:
        self.call = call
        self.load = False
        self.reconnect = False
        self._url = url
        self._timeout_s = timeout_s
        self._begun = time.monotonic()
        self._tries = 0
        self._attempt_at = self._begun  # the attempt under way was not begun earlier
        self._applied_at: float | None = None  # nor applied, of all that may have been; None: none was

    @property
    def attempt_s(self) -> float:
        """How long one attempt may take: a third at most, so that a lost answer leaves time to ask again."""
        return attempt_s(self._timeout_s)

    def failed(self, exc: BaseException, *, sent: bool) -> float:
        """Take note of a failed attempt. Returns how many seconds to wait before the next one, or raises."""
        code, now = code_of(exc), time.monotonic()
        if (sent and not code) or isinstance(exc, AppliedAnywayError):
            # It may have reached the server. From now on the call says so, and takes its own work for done.
            if self._applied_at is None:
                self._applied_at = self._attempt_at
            if self.call.again is not None:
                self.call = self.call.again()
        self._attempt_at = now
        self._tries += 1
        self.load = code == "NOSCRIPT"
        # Without an answer as well: who was asked may be gone for good, and other connections lead to the same.
        self.reconnect = not code or code in _MOVED_AWAY
        if bars(exc):
            raise self._in_doubt(barred(self.call.verb, self._url, exc)) from exc
        if self.load and self._tries == 1:
            return 0.0
        if code == "OOM" and self.call.alone is not None:
            self.call = self.call.alone()
            return 0.0
        if code and code != "NOSCRIPT" and code not in _PASSING | _MOVED_AWAY and not self._elsewhere(code):
            raise self._refusal(code, exc) from exc
        pause = random.uniform(0.0, min(1.0, 0.02 * 2 ** min(self._tries, 6)))
        if self.call.unanswered is not None and self._applied_at is not None:
            since = now + pause - self._applied_at
            if since > RESEND_S:
                raise self._gave_up(exc, f"{since:.0f} s after its first sending") from exc
        if now - self._begun + pause + (0.0 if code or not sent else self.attempt_s) > self._timeout_s:
            raise self._gave_up(exc, f"within {self._timeout_s:g} s") from exc
        return pause

    def _in_doubt(self, error: Exception) -> Exception:
        """Return what the caller sees of a final error, which tells nothing of what may have been applied already."""
        if self._applied_at is None:
            return error
        text = str(error).rstrip(".")
        if self.call.unanswered is not None:
            return self.call.unanswered(f"{text}.")
        return type(error)(f"{text}. It may have been done all the same")

    def _elsewhere(self, code: str) -> bool:
        """Whether another server of the cluster has it by now, or will have when its slot has moved."""
        return code in ("MOVED", "ASK") and is_cluster(self._url)

    def read(self, reply: Any) -> T:
        """Return what an answer means. One that makes no sense tells of keys that somebody else has written."""
        try:
            return self.call.parse(reply)
        except QWorkerError:
            raise
        except Exception as exc:
            raise unreadable(self.call.verb, self._url, exc) from exc

    def _refusal(self, code: str, exc: BaseException) -> Exception:
        verb, server = self.call.verb, public_url(self._url)
        if code == "CONFLICT" and self.call.refused is not None:
            # A script looks at all ids before it writes, so what had been applied would be there, and be no conflict.
            return self.call.refused(str(exc).split(" ")[1])
        if code == "OOM":
            whole = " whole; nothing of it was done" if self._applied_at is None else ""
            return self._in_doubt(
                ServerFull(
                    f"cannot {verb}: the server at {server} is at its memory limit and refused the call{whole}. Wait"
                    " until workers have drained it, or raise its maxmemory"
                )
            )
        if code in ("MOVED", "ASK", "CROSSSLOT"):
            hint = "Give all of it as its URL, redis+cluster://host:port,host:port"
            if is_cluster(self._url):
                hint = "Task groups need a server that is no cluster: their keys are in several slots"
            text = f"cannot {verb}: the server at {server} is a node of a cluster ({_text(exc)}). {hint}"
            return self._in_doubt(ServerUnfit(text))
        return self._in_doubt(BrokerError(f"cannot {verb}: the server at {server} answered with an error: {exc}"))

    def _gave_up(self, exc: BaseException, when: str) -> Exception:
        verb, server = self.call.verb, public_url(self._url)
        if code_of(exc) == "MISCONF":
            text = f"cannot {verb}: the server at {server} refuses writes: {_text(exc)}."
            hint = "Free space on its disk; it goes on by itself"
        else:
            text = (
                f"cannot {verb}: no usable answer from the server at {server} {when}"
                f" ({self._tries} attempts); last: {_described(exc)}."
            )
            hint = "Check that it runs and that the URL is right"
        if self._applied_at is not None and self.call.unanswered is not None:
            return self.call.unanswered(text)
        return BrokerUnavailable(f"{text} {hint}")


def bars(exc: BaseException) -> bool:
    """Say whether an error means that the server does not take us, or we not it: nothing that passes."""
    return code_of(exc) in _REFUSALS or _UNTRUSTED in str(exc)


def barred(verb: str, url: str, exc: BaseException) -> BrokerError:
    """Return what the caller of a verb sees of such an error; it says what is to be done."""
    server, text = public_url(url), _text(exc)
    if _UNTRUSTED in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0].rstrip(".") or text
        return BrokerError(
            f"cannot {verb}: the certificate of the server at {server} is not to be trusted: {reason}. Give the CA that"
            " signed it in the URL, ?ssl_ca_certs=/path/ca.pem, and the host by a name that is in it"
        )
    hint = "Check user, password and rights in the URL"
    if code_of(exc) == "NOPERM":
        lacking = _LACKING.search(text)
        rights = zip("+~&", lacking.groups() if lacking else (), strict=False)
        right = next((f"{sign}{name}, or " for sign, name in rights if name), "")
        hint = f"Grant {right}all that its role needs: docs/redis-rights.md; ACL LOG tells what was denied"
    return BrokerError(f"cannot {verb}: the server at {server} does not allow it: {text}. {hint}")


def _text(exc: BaseException) -> str:
    """An error's text as a part of a sentence of ours: without the line of our script and a full stop of its own."""
    return _SCRIPT_LINE.sub("", str(exc)).strip().rstrip(".")


def _described(exc: BaseException) -> str:
    """An error's class and text; the class alone when it has no text (TimeoutError)."""
    text = _text(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def attempt_s(timeout_s: float) -> float:
    """How long one attempt of a call with this total deadline may take."""
    third_s = timeout_s / 3
    if third_s < 0.05:  # without min and max: each call of the broker asks
        return 0.05
    return third_s if third_s < _LONGEST_S else _LONGEST_S


def unreadable(verb: str, url: str, exc: Exception) -> BrokerError:
    """Return what it means that an answer could not be read."""
    return BrokerError(
        f"cannot {verb}: the server at {public_url(url)} holds what qworker never wrote ({type(exc).__name__}: {exc})."
        " Look for what else writes to keys that begin with qw:"
    )


def in_step(exc: BaseException) -> bool:
    """Say whether the connection on which this error came can be used on."""
    return code_of(exc) in _IN_STEP
