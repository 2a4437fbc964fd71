"""What reads bytes of others, each as a function of bytes that returns, or raises what nobody may have to expect.

    TARGETS["outcome"](data)        the errors that a reader documents are its own; whatever comes out here is a bug

The same functions are run by the quick suite over the corpus, by hypothesis, and by atheris (`make fuzz`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hiredis

import qworker.task  # noqa: F401 - allowed.py imports it when it is first needed
from qworker import allowed, codec, config, durations, health, ids, log
from qworker.broker import aio, connection, flows, links, records, sockets
from qworker.broker.hello import Address
from qworker.broker.sentinel import Sentinels
from qworker.cli import details, shared, start
from qworker.errors import ConfigError, DecodeError
from qworker.lifecycle import State
from qworker.model import ErrorInfo, Header, Line
from qworker.pool import frames, stack_pipe, stack_text
from qworker.pool.apps import Apps
from qworker.pool.page import FOREVER, Page, SlotCells
from qworker.values import unpack_plain
from qworker.views import Inspection
from tests.fuzz.modules import FUNCTIONS, SOURCES, Unavailable, World, brought_by

Target = Callable[[bytes], None]

HEADER = codec.pack_header(Header("m.f"))
BLOB_READERS = (codec.read_header, codec.read_envelope, codec.line_of, codec.client_of, codec.sent_ms_of, codec.body_of)


def tame(text: str) -> None:
    """Text that goes to a terminal must not rule it."""
    assert all(line.isprintable() for line in text.split("\n")), ascii(text[:200])


def refused(error: Exception) -> None:
    """A refusal is one line that can be read and printed, however long or wild what was refused is."""
    assert str(error)
    assert len(str(error)) < 2_000, len(str(error))


def values(data: bytes) -> None:
    """Arguments and results, as children and callers read them."""
    for read in (codec.unpack_value, codec.unpack_body):
        try:
            read(data)
        except DecodeError as error:
            refused(error)


def blobs(data: bytes) -> None:
    """Tasks as they are stored: a worker reads their headers."""
    for read in BLOB_READERS:
        with contextlib.suppress(DecodeError):
            read(data)


def outcomes(data: bytes) -> None:
    """Outcomes, pushes, errors and progress, as clients read them."""
    for read in (codec.unpack_outcome, codec.read_pushed, codec.unpack_told, codec.unpack_error):
        with contextlib.suppress(DecodeError):
            found = read(data)
            if isinstance(found, ErrorInfo):
                assert isinstance(codec.rebuild_error(found, id="q:1"), Exception)


def shown(data: bytes) -> None:
    """What `qworker show` makes of a task: the body, the record, the outcome and the progress are all of it."""
    first, _, rest = data.partition(b"\xff|")
    blob = codec.pack_envelope(header=HEADER, body=first, line=Line(), client=codec.NOBODY, sent_ms=1)
    for found in (
        Inspection("1", None, outcome=data),
        Inspection("1", State.QUEUED, record=records.read_record(None), blob=blob, progress=rest or None),
        Inspection("1", State.QUEUED, record=records.read_record(None), blob=data),
    ):
        facts = details.facts_of("q:1", found, list)
        said = io.StringIO()
        shared.print_rows(details.rows_of(facts), file=said)
        tame(said.getvalue())
        json.dumps(shared.plain(facts)).encode()


def of_frames(data: bytes) -> None:
    """What a child says, torn anywhere: at the place that the first byte names."""
    cut = data[0] if data else 0
    reader = frames.Frames()
    for part in (data[1:cut], data[cut:]):
        try:
            for frame in reader.feed(part):
                frames.checked(frame)
        except frames.BrokenStream as error:
            refused(error)
            return


# hiredis makes the whole of an array before it has read its first element, as large as the server says: 16 bytes of
# nonsense from it take seconds. Who can speak as the server can do worse, so that is left as it is.
HUGE = re.compile(rb"[*~%>|][^\r\n]*\d{6}")


def replies(data: bytes) -> None:
    """What a server answers, as producers and workers read it."""
    if HUGE.search(data):
        return
    ours, theirs = socket.socketpair()
    link = links.Plain(Address("x", "", 0, 0, "", ""), "x", 0.2)
    link._socket = ours
    theirs.sendall(data)
    theirs.close()
    try:
        for _ in range(20):
            with contextlib.suppress(hiredis.ReplyError):
                link.reply()
    except OSError as error:
        refused(error)
    finally:
        link.close()
    plain = sockets.Plain(Address("x", "", 0, 0, "", ""), "x")
    plain._transport = SimpleNamespace(abort=lambda: None)  # type: ignore[assignment]
    plain.data_received(data[: len(data) // 2])
    if not plain.closed:
        plain.data_received(data[len(data) // 2 :])


def stored(data: bytes) -> None:
    """Records of tasks and of workers, hints: text that scripts and workers keep in Redis."""
    with contextlib.suppress(DecodeError):
        records.read_record(data)
    aio._read_hint(data)
    words = data.decode("utf-8", "replace")
    records.read_stop(words)
    if (worker := flows._read_worker(data)) is not None:
        sorted([worker, worker], key=lambda record: (record.started_ms, record.id))


def urls(data: bytes) -> None:
    """Addresses of servers; a password must be in no message."""
    url = data.decode("utf-8", "replace")
    try:
        assert connection.check_url(url) == url
        sentinels = Sentinels.of(url)
        for one in [url] if sentinels is None else [*sentinels.members, sentinels.primary("h", "1")]:
            Address.of(one)
    except ConfigError as error:
        refused(error)
    connection.public_url(url)
    assert "s3cret" not in connection.public_url(f"redis://:s3cret@{url[:50].replace('s3cret', '')}")


def names(data: bytes) -> None:
    """Ids, names of queues and namespaces, durations, as people write them."""
    text = data.decode("utf-8", "replace")
    for check in (ids.check_local, ids.check_queue, ids.check_namespace, ids.split_id, durations.seconds):
        try:
            check(text)
        except ConfigError as error:
            refused(error)
            tame(str(error))
    with contextlib.suppress(ConfigError):
        durations.text(durations.seconds(text))


def _registered() -> None: ...


REGISTERED = {"own.tasks.registered": SimpleNamespace(fn=_registered), "other.run": SimpleNamespace(fn=_registered)}


def functions(data: bytes) -> None:
    """Names of tasks, a line each, and before them what `--allow` says: nothing runs that is not in one of these."""
    said, *tried = data.decode("utf-8", "replace").split("\n")[:30]
    if data.count(b".") > 1_000:
        return  # each part is one import more to try, in the task's own time: a hundred ms for a name of 200
    try:
        allow = config.Settings.load({"allow": said}, environ={}, cwd=Path("/")).allow if said else ()
    except ConfigError as error:
        tame(str(error))
        return
    apps = Apps(None, "default", REGISTERED, (), allow)  # type: ignore[arg-type]
    above = {".".join(parts[:to]) for parts in (module.split(".") for module in allow) for to in range(1, len(parts))}
    lawful = brought_by({*(name for name in SOURCES if _inside(name, allow)), *above})
    for name in tried:
        before, fn = set(sys.modules), None
        with World() as world:
            allowed._find.cache_clear()
            try:
                found = apps.find(name)
                assert (found is not None) == (name in allowed.Names.of(REGISTERED, allow)), name
                fn = None if found is None else found.fn
            except (allowed.NotRunnable, Unavailable):
                pass  # the latter: code of an allowed module that was there already wanted one, its own affair
            new = set(sys.modules) - before
        for module in {*world.ran, *new, *world.asked}:
            assert module in lawful or _inside(module, allow), (name, allow, module)
        if name in REGISTERED:
            assert fn is _registered
            assert not world.asked
        elif fn is not None:
            home, _, _ = name.rpartition(".")
            assert _inside(home, allow), (name, allow)
            assert callable(fn)
            if name.split(".")[0] in ("own", "owner", "other"):
                assert name in FUNCTIONS, name
            owner = getattr(fn, "__self__", None)
            maker = owner if isinstance(owner, type) else getattr(fn, "__objclass__", fn)
            assert _inside(maker.__module__, allow), (name, fn)
    allowed._find.cache_clear()


def _inside(module: str, allow: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or in one of them; said otherwise than `permits` says it."""
    parts = module.split(".")
    return any(each == "*" or parts[: each.count(".") + 1] == each.split(".") for each in allow)


def settings(data: bytes) -> None:
    """A project file, and the same text in the environment and as a flag."""
    text = data.decode("utf-8", "surrogateescape")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "pyproject.toml").write_bytes(data)
        places: list[tuple[dict[str, Any], dict[str, str]]] = [({}, {})]
        if "\0" not in text:
            name = config.fields(config.Settings)[len(data) % len(config.fields(config.Settings))].name
            places += [({name: text}, {}), ({}, {f"QWORKER_{name.removesuffix('_s').upper()}": text})]
        for flags, environ in places:
            try:
                config.Settings.load(flags, environ=environ, cwd=Path(directory))
            except ConfigError as error:
                tame(str(error))


def words(data: bytes) -> None:
    """The command line of a worker."""
    argv = data.decode("utf-8", "replace").split("\n")
    found = start.read(argv)
    if found is not None:
        with contextlib.suppress(ConfigError):
            config.Settings.load(found[1], environ={}, cwd=Path("/"))


def lines(data: bytes) -> None:
    """What tasks print and are called, as the log shows it."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        value = unpack_plain(data)
    except DecodeError:
        value = text
    fields = {"text": text, text[:20] or "x": value, "block": log.Block(text)}
    try:
        console, packed = log.render_console(0.0, "info", text, fields), log.render_json(0.0, "info", text, fields)
    except RecursionError:
        return  # log.event says so in place of the fields
    tame(console)
    assert json.loads(packed)


def pages(data: bytes) -> None:
    """The page of a child, full of anything, as worker and child read it."""
    page = Page.create(2, FOREVER)
    try:
        size = len(page._bytes)
        page._bytes[:] = (data * (size // max(1, len(data)) + 1))[:size] if data else bytes(size)
        for slot in range(2):
            number = page.number(slot)
            page.progress(slot, number)
            page.shielded_until(slot, number)
            page.seen(slot)
            cells = SlotCells(page, slot, number, lambda _: None)
            cells.asked()
            cells.refused()
        page.take_looks()
        page.numbers(), page.starts()
    finally:
        page.close()


def stacks(data: bytes) -> None:
    """What came through the pipe in which a child writes where its tasks are."""
    stack_text.read_dump(data)
    for answer in stack_pipe._ANSWER.finditer(data):
        int(answer[1])
        stack_text.task_part(answer[2].decode("utf-8", "backslashreplace").split("\n")[:-1])


def health_files(data: bytes) -> None:
    """What `qworker check` reads of the workers of its host."""
    fd = os.memfd_create("health")
    try:
        os.write(fd, data)
        health.read(Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


TARGETS: dict[str, Target] = {
    "values": values,
    "blobs": blobs,
    "outcomes": outcomes,
    "shown": shown,
    "frames": of_frames,
    "replies": replies,
    "stored": stored,
    "urls": urls,
    "names": names,
    "functions": functions,
    "settings": settings,
    "words": words,
    "lines": lines,
    "pages": pages,
    "stacks": stacks,
    "health": health_files,
}
