"""URLs of clusters, the slots of keys, and which server a call goes to."""

from __future__ import annotations

import pytest

from qworker.broker.calls import Call, command
from qworker.broker.cluster import Cluster, key_of, slot_of, survey
from qworker.broker.clustered import ClusterConnections
from qworker.broker.connection import check_url
from qworker.broker.scripts import load
from qworker.errors import ConfigError

SLOTS = [[0, 99, [b"10.0.0.1", 7001, b"id"], [b"10.0.0.9", 7009, b"id"]], [100, 16_383, [b"10.0.0.2", 7002, b"id"]]]


def keyed(key: str) -> Call[int]:
    return command("do it", "DEL", key, parse=int)


@pytest.mark.parametrize(
    ("key", "slot"), [("foo", 12_182), ("{user1000}.following", 3_443), ("x{}y", 6_017), ("123456789", 12_739)]
)
def test_a_key_has_the_slot_that_the_servers_give_it(key: str, slot: int) -> None:
    if key != "x{}y":
        assert slot_of(key) == slot
    assert slot_of(key) == slot_of(key.encode())
    assert slot_of("a{tag}b") == slot_of("{tag}") == slot_of("tag")


def test_a_call_has_the_slot_of_its_first_key_and_some_have_none() -> None:
    assert key_of(Call("submit", load("submit"), (b"qw:{a.b}:bodies", b"x"), (), int)) == b"qw:{a.b}:bodies"
    assert key_of(keyed("k")) == "k"
    assert key_of(command("say", "PUBLISH", "channel", "x", parse=int)) is None
    assert key_of(command("ask", "TIME", parse=list)) is None


def test_the_map_says_who_has_a_call_until_it_is_forgotten() -> None:
    cluster = Cluster(check_url("redis+cluster://me:pw@a:1,b"))
    assert cluster.members() == ["redis://me:pw@a:1/0", "redis://me:pw@b:6379/0"]
    search = survey(cluster)
    assert next(search) == "redis://me:pw@a:1/0"
    assert search.throw(ConnectionError("gone")) == "redis://me:pw@b:6379/0"
    with pytest.raises(StopIteration):
        search.send(SLOTS)

    assert cluster.where(keyed("foo")) == "redis://me:pw@10.0.0.2:7002/0"
    assert cluster.where(command("say", "PUBLISH", "c", "x", parse=int)) == "redis://me:pw@10.0.0.1:7001/0"
    cluster.forget()
    assert cluster.where(keyed("foo")) == cluster.where(command("t", "TIME", parse=list)) == ""
    assert cluster.members()[:2] == ["redis://me:pw@10.0.0.1:7001/0", "redis://me:pw@10.0.0.2:7002/0"]


def test_a_server_without_a_name_is_the_one_that_was_asked() -> None:
    cluster = Cluster("rediss+cluster://box:7000?ssl_ca_certs=/ca.pem")

    cluster.read(cluster.members()[0], [[0, 16_383, [b"", 7000, b"id"]]])

    assert cluster.where(keyed("x")) == "rediss://box:7000/0?ssl_ca_certs=%2Fca.pem"


@pytest.mark.parametrize("reply", [[[1, 2]], [[0, 1, [b"h", b"x"]]], [[0, 1, [b"\xff", 1]]], 7, [[0, 1, ["h", 1]]],
    [[0, 1, [b"h", 0]]], [[0, 1, [b"h", 99_999]]], [[0, 1, [b"a..b", 1]]]],
)  # fmt: skip
def test_an_answer_that_is_no_map_is_passed_over(reply: object) -> None:
    search = survey(Cluster("redis+cluster://a,b"))
    next(search)

    assert search.send(reply) == "redis://b:6379/0"


def test_passwords_may_have_braces() -> None:
    assert Cluster("redis+cluster://me:p{0}w@a").members() == ["redis://me:p{0}w@a:6379/0"]


def test_when_nobody_answers_all_reasons_are_told() -> None:
    search = survey(Cluster("redis+cluster://a,b"))
    next(search)
    search.throw(ConnectionError("gone"))

    with pytest.raises(ConnectionError, match=r"^none of 2 server\(s\) .*: gone; it knows no slots$"):
        search.send([])


@pytest.mark.parametrize(
    "url",
    ["redis+cluster://", "redis+cluster://a:x", "redis+cluster://a:\u0663", "redis+cluster://a/1", "unix+cluster://a",
     "redis+cluster://a,.prod.svc", "redis+cluster://u:a[s3cret]c@a", "redis+cluster://:12#s3cret@a"],
)  # fmt: skip
def test_what_is_no_such_url_is_refused_with_one_that_is(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected redis\+cluster://user:password@host:6379,") as said:
        check_url(url)
    assert "s3cret" not in str(said.value)


def test_the_server_of_a_key_stays_known_when_the_map_is_forgotten() -> None:
    """Or what was seen of it before a call failed would be lost with the call."""
    cluster = Cluster(check_url("redis+cluster://a:1"))
    connections = ClusterConnections(cluster, lambda _: pytest.fail("nobody is asked"))
    assert connections.server_of("foo") is None

    cluster.read("redis://a:1/0", SLOTS)
    assert connections.server_of("foo") == "redis://10.0.0.2:7002/0"
    connections.forget()

    assert connections.server_of("foo") == "redis://10.0.0.2:7002/0"
    assert connections.server_of("bar") is None
