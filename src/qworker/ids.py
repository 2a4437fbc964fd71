"""Names that identify things: ids of tasks, tokens of clients and claims, names of queues and namespaces.

A full id is `queue:local`, so that an id alone finds its keys. Generated local parts are ULIDs: 48 bits of time and
80 random ones in 26 characters that sort by age. Called by whoever names something; every check is made here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable

from .errors import ConfigError

__all__ = [
    "by_queue",
    "check_group",
    "check_local",
    "check_namespace",
    "check_queue",
    "join_id",
    "new_local_id",
    "new_token",
    "split_id",
]

_LOCAL = re.compile(r"[A-Za-z0-9_.=@+-]{1,64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,47}")
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Each byte as the character for five of its bits: one call makes random bytes a random name.
_CROCKFORD_OF_BYTES = (_CROCKFORD * 8).encode()
_BASE32_OF_BYTES = (_BASE32 * 8).encode()
_stamp = (0, "")  # the last millisecond in which an id was made, and its ten characters


def new_local_id() -> str:
    """Return a new local id: a ULID, which sorts by the millisecond in which it was made."""
    global _stamp
    ms = int(time.time() * 1000)
    stamp = _stamp
    if stamp[0] != ms:
        stamp = _stamp = ms, "".join([_CROCKFORD[ms >> shift & 31] for shift in range(45, -1, -5)])
    # Never from `random`: a user's random.seed(0) or a fork would make ids twice.
    return stamp[1] + os.urandom(16).translate(_CROCKFORD_OF_BYTES).decode()


def new_token() -> str:
    """Return 12 random characters of `a-z2-7`: the id of a client or a claim."""
    return os.urandom(12).translate(_BASE32_OF_BYTES).decode()


def join_id(queue: str, local: str) -> str:
    """Return the full id of a task."""
    return f"{queue}:{local}"


def split_id(full: str) -> tuple[str, str]:
    """Split a full id into its queue and its local part.

    Raises:
        ConfigError: it is not a task id.
    """
    queue, colon, local = full.partition(":")
    if not colon and full.startswith("g-") and _LOCAL.fullmatch(full) is not None:
        raise ConfigError(
            f"{_quoted(full)} is the id of a group, and one of a task is expected; groups are taken by qworker show, "
            "qworker stop --group and App.stop(group=…)"
        )
    if not colon or _NAME.fullmatch(queue) is None or _LOCAL.fullmatch(local) is None:
        raise ConfigError(f"{_quoted(full)} is not a task id: expected queue:local, such as default:01JC2M6Q")
    return queue, local


def by_queue(full_ids: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return queues and the local parts of the ids that are theirs."""
    groups: dict[str, list[str]] = {}
    for full in full_ids:
        queue, _, local = full.partition(":")
        groups.setdefault(queue, []).append(local)
    return list(groups.items())


def check_group(group: str) -> str:
    """Return the id of a task group, or say why it cannot be one."""
    if not group.startswith("g-") or _LOCAL.fullmatch(group) is None:
        raise ConfigError(f"{_quoted(group)} is not the id of a group: expected g-…, such as g-01JC2M6Q")
    return group


def check_local(local: str) -> str:
    """Return a given id, or say why it cannot be one."""
    if not isinstance(local, str) or _LOCAL.fullmatch(local) is None:
        raise ConfigError(f"id={_quoted(local)}: an id has 1 to 64 characters out of A-Z a-z 0-9 _ . = @ + -")
    return local


def check_queue(queue: str) -> str:
    """Return a queue's name, or say why it cannot be one."""
    return _check_name("queue", queue)


def check_namespace(namespace: str) -> str:
    """Return a namespace, or say why it cannot be one."""
    _check_name("namespace", namespace)
    if "." in namespace:
        # Keys say `namespace.queue`: a dot in both would make two projects share one queue.
        raise ConfigError(f"namespace {_quoted(namespace)}: a namespace has no dot; try {namespace.replace('.', '-')}")
    return namespace


def _check_name(what: str, name: str) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{what} {_quoted(name)}: a {what} has 1 to 48 characters out of a-z 0-9 _ . - and begins with "
            "a letter or digit"
        )
    return name


def _quoted(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else text[:77] + "..."
