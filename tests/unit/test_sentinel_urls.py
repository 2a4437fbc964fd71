"""URLs that name sentinels: what they say of whom to ask, and where the primary is then reached."""

from __future__ import annotations

import pytest

from qworker.broker.connection import check_url, public_url
from qworker.broker.sentinel import Sentinels, find
from qworker.errors import ConfigError


def read(url: str) -> Sentinels:
    found = Sentinels.of(check_url(url))
    assert found is not None
    return found


def test_a_url_names_sentinels_service_database_and_who_we_are() -> None:
    found = read("redis+sentinel://me:p%40ss@one:1,two/shop/3")

    assert found.members == ["redis://one:1", "redis://two:26379"]
    assert found.service == "shop"
    assert found.primary("10.0.0.1", "6379") == "redis://me:p%40ss@10.0.0.1:6379/3"


def test_options_are_the_primarys_and_tls_is_for_both() -> None:
    found = read("rediss+sentinel://:pw@one/shop?ssl_ca_certs=/ca.pem&sentinel_username=s&sentinel_password=a/b")

    assert found.members == ["rediss://s:a%2Fb@one:26379?ssl_ca_certs=%2Fca.pem"]
    assert found.primary("h", "1") == "rediss://:pw@h:1/0?ssl_ca_certs=%2Fca.pem"


def test_addresses_of_the_sixth_version_are_taken() -> None:
    found = read("redis+sentinel://[::1]:7,[::2]/shop")

    assert found.members == ["redis://[::1]:7", "redis://[::2]:26379"]
    assert found.primary("::3", "1") == "redis://[::3]:1/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://one:1,two:2",
        "redis+sentinel://one:1/",
        "redis+sentinel:///shop",
        "redis+sentinel://one:x/shop",
        "redis+sentinel://one:0/shop",
        "redis+sentinel://one:1,/shop",
        "redis+sentinel://one:1/shop/first",
        "unix+sentinel://one:1/shop",
        "redis+sentinel://.prod.svc/shop",
        "redis+sentinel://one,a..b:1/shop",
        "redis+sentinel://user:a[s3cret]c@one:1/shop",
        "redis+sentinel://user:12/s3cret@one:1",
        "redis+sentinel://:12#s3cret@one:1/shop",
    ],
)
def test_what_is_no_such_url_is_refused_with_one_that_is(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected redis\+sentinel://user:password@host:26379,") as said:
        check_url(url)
    assert "s3cret" not in str(said.value)


def test_an_option_of_sentinels_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no option sentinel_timeout"):
        check_url("redis+sentinel://one/shop?sentinel_timeout=3")


def test_no_password_of_it_is_shown() -> None:
    shown = public_url("redis+sentinel://me:geheim@one:1,two:2/shop/0?sentinel_password=geheim")

    assert shown == "redis+sentinel://me:***@one:1,two:2/shop/0?sentinel_password=***"


def test_who_knows_is_asked_first_the_next_time() -> None:
    found = read("redis+sentinel://a,b,c/shop")
    search = find(found)
    assert next(search) == "redis://a:26379"
    assert search.throw(ConnectionError("gone")) == "redis://b:26379"
    assert search.send(None) == "redis://c:26379"
    with pytest.raises(StopIteration) as ended:
        search.send([b"h", b"1"])

    assert ended.value.value == "redis://h:1/0"
    assert found.members == ["redis://c:26379", "redis://a:26379", "redis://b:26379"]


def test_when_nobody_knows_all_reasons_are_told() -> None:
    search = find(read("redis+sentinel://a,b/shop"))
    next(search)
    search.throw(ConnectionError("gone"))

    with pytest.raises(ConnectionError, match=r"^none of 2 sentinel\(s\) names .* 'shop': gone; it knows no service"):
        search.send(None)


def test_a_password_may_have_braces() -> None:
    assert read("redis+sentinel://:p{0}{@one/shop").primary("h", "1") == "redis://:p{0}{@h:1/0"


@pytest.mark.parametrize(
    "reply", [7, b"ab", [b"h"], [b"h", b"x"], [b"\xff", b"1"], [b"a@b", b"1"], [b"[", b"1"], [None, 1], [b"a..b", b"1"],
    [b"h", b"0"], [b"h", b"99999"]],
)  # fmt: skip
def test_an_answer_that_is_no_address_is_no_sentinels(reply: object) -> None:
    search = find(read("redis+sentinel://a/shop"))
    next(search)

    with pytest.raises(ConnectionError, match="it answers with what is no address"):
        search.send(reply)


def test_two_that_ask_at_once_may_both_note_who_knew() -> None:
    """Whoever comes second finds the list as it is, at any moment: nobody is missing in it."""
    found = read("redis+sentinel://a,b,c/shop")

    class Watched(list[str]):
        def remove(self, value: str, /) -> None:
            pytest.fail(f"{value} is missing for a moment")

    found.members = Watched(found.members)
    search = find(found)
    next(search)
    search.throw(ConnectionError("gone"))
    with pytest.raises(StopIteration):
        search.send([b"h", b"1"])

    assert found.members == ["redis://b:26379", "redis://a:26379", "redis://c:26379"]
