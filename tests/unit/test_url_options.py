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
        "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required&ssl_check_hostname=no&protocol=3",
        "rediss+sentinel://:pw@one/shop?ssl_ca_certs=/ca.pem&sentinel_username=s",
        "redis+cluster://a,b?socket_timeout=3",
    ],
)
def test_options_that_redis_py_knows_are_taken(url):
    assert check_url(url) == url
