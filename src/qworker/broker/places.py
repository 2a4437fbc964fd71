"""Where the embedded server of a project keeps its things.

    <root>/.qworker/         locks, append-only file, logs, server.json: what the guardian wrote of itself
    <runtime>/<hash>.sock    the socket, in a private directory of the user, because a socket's path must be short

Used by embedded.py. Nothing here starts, locks or stops anything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import ConfigError
from . import guardian

__all__ = ["STATE_DIR", "find_root", "no_state", "prepare", "read_facts", "socket_path", "to_url", "url_of"]

STATE_DIR = ".qworker"
ROOT_MARKS = ("pyproject.toml", ".git")
# sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
LONGEST_SOCKET_PATH = 103


def find_root(cwd: Path | None = None) -> Path:
    """Return the project that a directory belongs to: its nearest parent with pyproject.toml or .git, else itself."""
    try:
        here = (cwd or Path.cwd()).resolve()
    except FileNotFoundError:
        raise ConfigError(
            "cannot find the project for the embedded server: the working directory is gone. "
            "Change into the project, or set QWORKER_URL"
        ) from None
    for directory in (here, *here.parents):
        if any(_is_there(directory / mark) for mark in ROOT_MARKS):
            return directory
    return here


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:  # not there, or above us is a directory that we may not look into
        return False
    return True


def url_of(root: Path, *, environ: Mapping[str, str] | None = None) -> str:
    """The URL that the root's server has, or will have when this process starts it."""
    root = root.resolve()
    return to_url(socket_path(root, os.environ if environ is None else environ))


def prepare(root: Path) -> Path:
    """Make the state directory, closed to others, and invisible to git."""
    state = root / STATE_DIR
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        found = state.stat()
        if found.st_uid not in (os.getuid(), 0) and os.getuid() != 0:
            raise PermissionError(errno.EPERM, "the directory belongs to another user")
        if found.st_uid == os.getuid() and found.st_mode & 0o077:  # unpacked or copied there
            state.chmod(0o700)
        ignore = state / ".gitignore"
        if not ignore.exists() or not ignore.stat().st_size:  # nothing in it: the disk was full
            ignore.write_text("*\n")
    except OSError as error:
        raise no_state(state, error) from None
    return state


def no_state(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the embedded server cannot keep its state in {path}: {error.strerror}. Run in a project that you may write "
        "to, or set QWORKER_URL=redis://host:6379"
    )


def read_facts(root: Path) -> dict[str, Any]:
    """What the guardian wrote of itself; {} while it has not, or when the file came here with a copied project."""
    try:
        facts = json.loads((root / STATE_DIR / guardian.STATE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(facts, dict) or facts.get("root") != str(root) or not isinstance(facts.get("socket"), str):
        return {}
    return facts


def socket_path(root: Path, environ: Mapping[str, str]) -> str:
    """Where the server of a root listens.

    Where it listened before, if that directory is still there: a cron job has another idea of the runtime directory
    than a shell, and the clients of a restarted server look for it at the old place.
    """
    before = read_facts(root).get("socket")
    if before and len(os.fsencode(before)) <= LONGEST_SOCKET_PATH and _is_private(Path(before).parent):
        return str(before)
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16] + ".sock"
    places = [Path(tempfile.gettempdir()) / f"qworker-{os.getuid()}", Path(f"/tmp/qworker-{os.getuid()}")]  # noqa: S108
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_private(Path(runtime)):
        places.insert(0, Path(runtime) / "qworker")
    problems = []
    for place in dict.fromkeys(places):
        path = str(place / name)
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            problems.append(f"{place}: too long for a socket")
            continue
        try:
            place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
            continue
        if _is_private(place):
            return path
        problems.append(f"{place}: not a directory that only you may enter")
    raise ConfigError(
        f"no place for the socket of the embedded server of {root} ({'; '.join(problems)}). "
        "Set XDG_RUNTIME_DIR to a short private directory, or QWORKER_URL=redis://host:6379"
    )


def _is_private(path: Path) -> bool:
    """Whether it is a directory of ours that nobody else may enter: what stands there was not planted by others."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def to_url(socket_path: str) -> str:
    return "unix://" + quote(socket_path)
