"""The inputs that are kept: `corpus/TARGET/NAME`, small files, the seeds of every run and the crashers of earlier ones.

python -m tests.fuzz.corpus      # writes the seeds that are made of what qworker itself writes
"""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

import msgpack

from qworker import codec
from qworker.lifecycle import How, State
from qworker.model import ErrorInfo, Header, Line, Outcome, Progress, Sighting, Told
from qworker.pool import frames
from tests.fuzz.modules import FUNCTIONS

CORPUS = Path(__file__).with_name("corpus")


def of(target: str) -> list[bytes]:
    """Every input of a target, in the order of their names."""
    return [file.read_bytes() for file in sorted((CORPUS / target).glob("*"))]


def keep(target: str, data: bytes, name: str = "") -> Path:
    """Keep an input, under a name or under its hash."""
    file = CORPUS / target / (name or blake2b(data, digest_size=6).hexdigest())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def _seeds() -> dict[str, dict[str, bytes]]:
    deep = b"\x91" * 1_000 + b"\xc0"
    body = codec.pack_body((1, (2, {3}), "text"), {"key": None})
    error = codec.pack_error(
        ErrorInfo("builtins.ValueError", ("x",), "x", "Traceback", ("a note",), ("builtins.Exception",))
    )
    seen = Sighting("asked", 1.0, "File x", (1.0, None, "half"), ("a line",))
    ended = Outcome(
        "q:1",
        State.TIMED_OUT,
        How.KILLED,
        1,
        2,
        "c" * 12,
        b"digest..",
        "w:1:a",
        1_700_000_000_000,
        1.5,
        1.0,
        0.5,
        False,
        "timeout 1 s",
        None,
        error,
        False,
        None,
        (seen,),
    )
    done = codec.pack_success("q:1", "c" * 12, b"digest..", 1, 1, "w", 1, 0.1, codec.pack_value({"a": [1, (2,)]}))
    told = codec.pack_told(Told("q:1", Progress(1.0, 2.0, "half"), ("line",)))
    blob = codec.pack_envelope(
        header=codec.pack_header(Header("m.f", retries=3, extra={"g": ["g-1"], "d": 2})),
        body=body,
        line=Line(),
        client="a" * 12,
        sent_ms=1_700_000_000_000,
    )
    said = b"".join(
        frames._pack(frame)
        for frame in (
            [frames.READY],
            [frames.OUTPUT, 1, "stdout", "text", {"level": "info"}],
            [frames.WAITING, 1, ["q:1"], False],
            [frames.GROUP, 1, "g-1", True],
            [frames.STACK, 1, "here"],
            [frames.OUTCOME, 1, frames.RETRY, 0.1, True, 1.0, error],
        )
    )
    worker = {
        "id": "w:1:a",
        "host": "h",
        "pid": 1,
        "boot_id": "b",
        "pid_ns": "1",
        "start_time": 1,
        "queues": ["default"],
        "state": "running",
        "started_ms": 1,
        "slots": {"process": 2},
        "running": [{"id": "q:1", "ran_s": 2.0}],
    }
    return {
        "values": {
            "call": body,
            "deep": deep,
            "nested-extensions": codec.pack_value(((((1,),),),)),
            "claims": b"\x92\x91\xdd\xff\xff\xff\xff\x80",
            "bad-text": b"\x92\x91\xa2\xff\xfe\x80",
            "trailing": body + b"\x01",
            "bomb": b"\xdc\x00\x10" * 60,
            "datetime": msgpack.packb(
                msgpack.ExtType(4, msgpack.packb(["2024-01-01T00:00:00", 3_600_000_000, "Europe/Berlin", 0]))
            ),
        },
        "blobs": {"task": blob, "short": blob[:40], "long-header": blob[:29] + b"\xff\xff" + blob[31:]},
        "outcomes": {
            "timed-out": codec.pack_outcome(ended),
            "done": done,
            "told": told,
            "error": error,
            "push": done + told + codec.pack_hint("q:2"),
            "deep-progress": b"\x81\xa1p\x93\xa1i\xc0\x91" + deep,
        },
        "shown": {
            "timed-out": codec.pack_outcome(ended),
            "done": done,
            "task": blob,
            "call-and-progress": body + b"\xff|" + told,
            "year-five-million": codec.pack_outcome(ended._replace(ended_ms=2**63)),
            "deep-value": codec.pack_outcome(ended._replace(error=None, value=deep)),
            "infinite": codec.pack_outcome(ended._replace(ran_s=float("inf"), took_s=float("nan"))),
        },
        "frames": {
            "said": b"\x0c" + said,
            "nested": b"\x00\x91" + deep,
            "level": b"\x00\x95\x03\x01\xa1s\xa1t\x81\xa5level" + deep,
        },
        "replies": {
            "claim": b"*3\r\n:1\r\n$3\r\nabc\r\n*-1\r\n",
            "error": b"-WRONGTYPE no\r\n+OK\r\n",
            "push": b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$0\r\n\r\n",
            "unhashable": b"%1\r\n*0\r\n:1\r\n",
            "torn": b"$10\r\nabc",
            "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
        },
        "stored": {
            "record": b"c aaaaaaaaaaaa e d 1 2 1 0 0 1700000000000 0 0",
            "worker": json.dumps(worker).encode(),
            "wrong-types": json.dumps(worker | {"started_ms": "1", "running": [1]}).encode(),
            "hint": b"default aaaaaaaaaaaa id 500",
        },
        "urls": {
            "tcp": b"redis://user:s3cret@[::1]:6379/0",
            "unix": b"unix:///tmp/x?db=1",
            "options": b"rediss://h:1/2?ssl_password=x#f",
            "bracket": b"redis://[",
            "sentinels": b"redis+sentinel://:p{}@h:1,[::1]:2/service/0?sentinel_password=x",
            "sentinel-bracket": b"redis+sentinel://h:1,[::1/x",
            "other-digits": "redis+sentinel://h:\u0663/s".encode(),
            "long": b"x" * 5_000,
        },
        "names": {
            "id": b"default:01JC2M6Q",
            "duration": b"1h30m",
            "huge": b"9" * 5_000,
            "escape": b"\x1b[2J:\xe2\x80\xae",
        },
        "functions": {
            "nothing-allowed": b"\nown.tasks.run\nother.run\nown.tasks.registered\nos.system\n*.run",
            "module": b"own.tasks\nown.tasks.run\nown.tasks.later\nown.tasks.Box.named\nown.tasks.Box.Inner.run\n"
            b"own.deep.er.run\nother.leaked\nown.run",
            "borrowed": b"own\nown.tasks.system\nown.tasks.shell\nown.tasks.leaked\nown.tasks.os.system\nown.leaked\n"
            b"own.tasks.Box.helper\nown.tasks.Box.leak\nown.tasks.Box.Helper.leak\nown.tasks.hatch.leaked\n"
            b"own.hatch.leaked\nown.tasks.other.leaked\nown.tasks.sys.modules.get",
            "broken": b"own.raises,own.exits,own.needs\nown.raises.run\nown.exits.run\nown.needs.run\nown.nowhere.run",
            "beginning": b"own\nowner.run\nown\nown.\nown..tasks.run\n.own.tasks.run\nown.tasks.run.",
            "dunder": b"own.tasks\nown.tasks.run.__globals__\nown.tasks.Box.__subclasses__\nown.tasks.__builtins__.eval"
            b"\nown.tasks.run.__call__\nown.tasks.Box.mro",
            "lambda": b"own.tasks\nown.tasks.lamb\nown.tasks.<lambda>\nown.tasks.inner\nown.tasks.make.<locals>.inner"
            b"\nown.tasks.partial\nown.tasks.box.weigh\nown.tasks.nothing",
            "everything": b"*\nown.tasks.run\nother.sub.run\nos.getcwd\nposix.system\n__main__.main\nbuiltins.eval\n"
            b"antigravity.x\nsubprocess.Popen\nown.tasks.alias",
            "other-package": b"os,other.sub\nos.system\nos.path.join\nother.sub.run\nother.leaked\nposixpath.join",
            "deep": b"own\nown" + b".tasks" * 900 + b".run",
            "no-text": b"own\nown.\xff\nown.\x00.run\nown.\x1b[2J\nown.tasks.\xe2\x80\xae",
            "all-there-is": b"own,owner,other\n" + "\n".join(sorted(FUNCTIONS)).encode(),
            "class": b"own.tasks.Box\nown.tasks.Box.double\nown.tasks.Box.named\nown.tasks.Box.Inner.run",
            "no-module": b"own-tasks\nown.run",
        },
        "settings": {
            "table": b'[tool.qworker]\nlease = "30s"\nconcurrency = {process = 2, thread = 20}\nqueues = ["a"]\n',
            "tool": b"tool = 3",
            "digits": b"[tool.qworker]\nlease = 0x1" + b"0" * 5_000,
            "key": b'[tool.qworker]\n"\\u001b[2J" = 1',
            "slots": b"process=2,thread=4x5",
        },
        "words": {"usual": b"tasks:app\n-c\n8\n--lease=30s\n--burst", "odd": b"-c=8\n--no-embedded\n--\n-q\nhigh,low"},
        "lines": {"escapes": b"a\x1b[2J\x07\xc2\x9b31m\xe2\x80\xae", "packed": body, "deep": deep},
        "pages": {"ones": b"\x01", "nan": b"\x00" * 6 + b"\xf8\x7f", "full": b"\xff"},
        "stacks": {
            "dump": b'Stack (most recent call first):\n  File "x", line 1 in f\n  File "t", line 2 in _bootstrap\n',
            "answer": b"\x027\n  File x\n\x03",
            "digits": b"\x02" + b"7" * 5_000 + b"\n\x03",
        },
        "health": {
            "worker": b'{"pid": 1, "turned": 1.0, "succeeded": null, "worker": "w", "start": 1}',
            "infinite": b'{"pid": Infinity, "turned": 1, "succeeded": null, "worker": "w"}',
            "deep": b"[" * 100_000,
        },
    }


if __name__ == "__main__":
    for target, seeds in _seeds().items():
        for name, data in seeds.items():
            keep(target, data, name)
