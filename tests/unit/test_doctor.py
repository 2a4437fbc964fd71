"""What the doctor says of a server and of a host: pure judgement of facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.exceptions import ResponseError

from qworker.broker.values import ServerFacts
from qworker.cli import doctor
from qworker.cli.doctor import Finding, HostFacts, judge_host, judge_server

GOOD = ServerFacts(
    software="valkey",
    version="9.0.1",
    now_ms=0,
    latency_s=0.0002,
    eviction_policy="noeviction",
    max_memory=1 << 30,
    used_memory=1 << 20,
    append_only=True,
    snapshots="",
    cluster=False,
    role="master",
)
HOST = HostFacts(
    system="Linux", release="6.1", python=(3, 12, 1), free_threaded=False, cpus=4, files=65536, processes=None,
    memory=None, group_oom=False, pidfd=True, subreaper=True, uvloop=True,
)  # fmt: skip


def server(skew_s: float = 0.0, *, is_embedded: bool = False, refusal: str = "", **changes):
    facts = replace(GOOD, **changes)
    return {one.what: one for one in judge_server(facts, skew_s=skew_s, is_embedded=is_embedded, refusal=refusal)}


def host(**changes):
    return list(judge_host(replace(HOST, **changes)))


def test_a_good_server_and_a_good_host_are_ok():
    assert {one.level for one in server().values()} == {"ok"}
    assert {one.level for one in host()} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "what", "level", "found"),
    [
        ({"eviction_policy": "allkeys-lru"}, "eviction", "bad", "allkeys-lru: a full server deletes queued tasks"),
        ({"eviction_policy": "volatile-ttl"}, "eviction", "warn", "volatile-ttl: a full server deletes results"),
        ({"eviction_policy": None}, "eviction", "warn", "could not be asked"),
        ({"append_only": False, "snapshots": "3600 1"}, "persistence", "warn", "snapshots only (save 3600 1): a"),
        ({"append_only": False}, "persistence", "warn", "none: a restart of the server loses all tasks"),
        ({"append_only": None}, "persistence", "warn", "could not be asked"),
        ({"max_memory": 0}, "memory", "warn", "1.0 MiB used, and no maxmemory is set"),
        ({"used_memory": 900 << 20}, "memory", "warn", "900 MiB used of 1.0 GiB (88%)"),
        ({"used_memory": 1000 << 20}, "memory", "bad", "1,000 MiB used of 1.0 GiB (98%): submits are about"),
        ({"used_memory": None}, "memory", "warn", "could not be asked"),
        ({"role": "slave"}, "role", "bad", "a read-only replica"),
        ({"cluster": True}, "cluster", "warn", "cluster mode is on"),
        ({"withheld": ("CONFIG GET", "INFO")}, "withheld", "warn", "the server refused CONFIG GET, INFO"),
        ({"latency_s": 0.01}, "latency", "warn", "10 ms a round trip"),
        ({"latency_s": 0.2}, "latency", "warn", "0.2 s a round trip"),
        ({"software": "redis", "version": "6.0.16"}, "version", "bad", "Redis 6.0.16 is too old"),
        ({"software": "redis", "version": "7.0.15"}, "version", "warn", "Redis 7.0.15 may let a Lua script run code"),
        ({"software": "redis", "version": "7.2.10"}, "version", "warn", "CVE-2025-49844"),
        ({"software": "redis", "version": "7.2.11"}, "version", "ok", "Redis 7.2.11"),
        ({"software": "redis", "version": "8.4.0"}, "version", "ok", "Redis 8.4.0"),
        ({"version": "8.1.3"}, "version", "warn", "Valkey 8.1.3 may let"),
        ({"version": "8.1.4"}, "version", "ok", "Valkey 8.1.4"),
        ({"version": ""}, "version", "warn", "Valkey of unknown version"),
        ({"version": "odd.x"}, "version", "warn", "Valkey odd.x"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_with_a_server_is_said(changes, what, level, found):
    finding = server(**changes)[what]

    assert finding.level == level
    assert found in finding.found


def test_a_server_that_cannot_write_to_its_disk_is_bad():
    finding = server(refusal="Errors writing to the AOF file: No space left on device")["disk"]

    assert finding == Finding(
        "bad", "disk", "the server cannot write: Errors writing to the AOF file: No space left on device",
        "free space on its disk; it goes on by itself",
    )  # fmt: skip
    assert "disk" not in server()


class Refusing:
    """A broker whose server answers PING with an error."""

    def __init__(self, text: str) -> None:
        self.client, self.text = self, text

    def ping(self) -> None:
        raise ResponseError(self.text)


def test_the_refusal_of_a_ping_tells_of_the_disk_and_of_nothing_else():
    assert doctor._refusal(Refusing("MISCONF Errors writing to the AOF file")) == "Errors writing to the AOF file"
    assert doctor._refusal(Refusing("NOPERM this user has no permissions to run 'ping'")) == ""


def test_nobody_is_told_to_change_the_settings_of_the_embedded_server():
    finding = server(is_embedded=True, max_memory=0)["memory"]

    assert finding == Finding("ok", "memory", "1.0 MiB used")


def test_on_a_narrow_terminal_a_hint_is_wrapped_under_itself(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")

    doctor._print([Finding("warn", "memory", "found " * 20, "do this with --one-option " * 5)])

    first, *rest = capsys.readouterr().out.rstrip("\n").split("\n")
    assert first.startswith("warn memory       found found")
    assert len(rest) >= 3
    assert all(line.startswith(" " * 18) and line[18] != " " and len(line) <= 80 for line in rest)
    assert "".join(rest).count("--one-option") == 5, "no option is broken at its hyphen"


def test_each_complaint_says_what_to_do():
    worst = server(
        skew_s=60, eviction_policy="allkeys-lru", append_only=False, max_memory=0, role="slave", cluster=True,
        latency_s=1, version="1.0.0", withheld=("INFO",),
    )  # fmt: skip

    assert all(one.do for one in worst.values())
    assert {one.level for one in worst.values()} == {"warn", "bad"}
    assert all(one.do for one in host(system="Darwin", free_threaded=True, files=256, processes=100, memory=1 << 20,
                                      group_oom=True) if one.level != "ok")  # fmt: skip


@pytest.mark.parametrize(
    ("skew_s", "level", "found"),
    [
        (0.2, "ok", "within 0.2 s of this host's"),
        (90.0, "warn", "the server's is 1 min 30 s ahead of this host's"),
        (-90.0, "warn", "the server's is 1 min 30 s behind this host's"),
    ],
)
def test_a_clock_that_is_off_is_said_with_its_side(skew_s, level, found):
    finding = server(skew_s=skew_s)["clock"]

    assert (finding.level, finding.found) == (level, found)


@pytest.mark.parametrize(
    ("changes", "level", "found"),
    [
        ({"pidfd": False}, "bad", "no pidfd: children cannot be watched"),
        ({"pidfd": False, "subreaper": False}, "bad", "no pidfd and no subreaper"),
        ({"system": "Darwin", "pidfd": False}, "warn", "Darwin 6.1, 4 CPU(s)"),
        ({"files": 1024}, "warn", "1,024 open files allowed"),
        ({"processes": 64}, "warn", "64 allowed"),
        ({"memory": 256 << 20}, "warn", "256 MiB allowed"),
        ({"memory": 1 << 30}, "ok", "1.0 GiB allowed"),
        ({"group_oom": True}, "warn", "the kernel kills the whole container"),
        ({"free_threaded": True}, "warn", "Python 3.12.1, without a GIL"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_host_is_said(changes, level, found):
    assert [one.level for one in host(**changes) if found in one.found] == [level]


def test_this_host_can_be_looked_at():
    facts = HostFacts.here()

    assert facts.cpus >= 1
    assert facts.files > 0
    assert list(judge_host(facts))
