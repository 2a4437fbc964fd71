"""Options in a server's URL: those that redis-py cannot use are refused before anything is asked of a server."""

from __future__ import annotations

import pytest

from qworker.broker.aio import AsyncBroker
from qworker.broker.broker import Broker
from qworker.broker.connection import check_url
from qworker.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h?foo=bar", "there is no option 'foo'. Correct it, or leave it out"),
        ("redis://h?socket_timeout=3&\x1b=1", r"there is no option '\x1b'. Correct it, or leave it out"),
        ("redis://h?parser_class=x", "there is no option 'parser_class'. Correct it, or leave it out"),
        ("redis+sentinel://h/s?foo=1", "there is no option 'foo'. Correct it, or leave it out"),
        ("redis+cluster://h,g?foo=1", "there is no option 'foo'. Correct it, or leave it out"),
        ("unix:///s?socket_keepalive=1", "there is no option 'socket_keepalive' for such a server. Correct it, or"),
        ("redis://h?ssl_ca_certs=x", "'ssl_ca_certs' for such a server; those of TLS are for rediss://. Correct it"),
        ("redis://h?socket_timeout=x", "its option 'socket_timeout' has a value that cannot be read. Correct it, or"),
        ("unix:///s?db=x", "its option 'db' has a value that cannot be read. Correct it, or leave it out"),
        ("redis://h?socket_timeout=-1", "its option 'socket_timeout' cannot be used: expected a number above 0. Corr"),
        ("redis://h?socket_timeout=nan", "its option 'socket_timeout' cannot be used: expected a number above 0. Cor"),
        ("redis://h?socket_connect_timeout=1e999", "'socket_connect_timeout' cannot be used: expected a number above"),
        (
            "redis://h?protocol=3",
            "its option 'protocol' cannot be used: qworker reads answers of protocol 2 only. Correct",
        ),
        (
            "redis://h?decode_responses=true",
            "its option 'decode_responses' cannot be used: qworker reads bytes. Correct",
        ),
        (
            "rediss+sentinel://h/s?decode_responses=no",
            "its option 'decode_responses' cannot be used: qworker reads byt",
        ),
        ("redis://h?protocol=9", "its option 'protocol' cannot be used: protocol must be either 2 or 3. Correct it"),
        ("rediss://h?ssl_cert_reqs=no", "its option 'ssl_cert_reqs' cannot be used: Invalid SSL Certificate Require"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(url, said):
    for refusing in (check_url, Broker, AsyncBroker):
        with pytest.raises(ConfigError) as caught:
            refusing(url)

        assert said in str(caught.value)
        assert str(caught.value).startswith("url='")


def test_no_password_is_in_the_refusal():
    with pytest.raises(ConfigError) as caught:
        check_url("redis://me:s3cret@h?foo=1&password=s3cret")

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?db=3",
        "unix:///a/b.sock?db=3&socket_timeout=2.5&health_check_interval=0",
        "redis://:p%40w@h:1/2?socket_keepalive=no&socket_connect_timeout=1&client_name=me&max_connections=5&foo=",
        "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required&ssl_check_hostname=no&protocol=2",
        "rediss+sentinel://:pw@one/shop?ssl_ca_certs=/ca.pem&sentinel_username=s",
        "redis+cluster://a,b?socket_timeout=3",
    ],
)
def test_options_that_redis_py_knows_are_taken(url):
    assert check_url(url) == url


@pytest.mark.parametrize(
    "host", [".prod.svc", "a..b", "a" * 64 + ".b", "h\0x", ".", "%00", "a%2e%2eb", "\xe4..b", "h:70000", "h:0"]
)
@pytest.mark.parametrize("url", ["redis://{}/0", "rediss://{}/0", "redis+sentinel://{}/shop", "redis+cluster://{}"])
def test_a_host_that_cannot_be_looked_up_is_refused(url, host):
    for refusing in (check_url, Broker, AsyncBroker):
        with pytest.raises(ConfigError, match="expected redis"):
            refusing(url.format(host))


def test_a_path_that_cannot_be_one_is_refused():
    with pytest.raises(ConfigError, match="expected redis"):
        check_url("unix:///a%00b")


@pytest.mark.parametrize(
    "host", ["h", "h.", "a_b.svc", "127.0.0.1", "[::1]", "[fe80::1%25eth0]", "b\xfccher.example", ""]
)
def test_other_hosts_are_taken(host):
    assert check_url(f"redis://{host}:1/0") == f"redis://{host}:1/0"
