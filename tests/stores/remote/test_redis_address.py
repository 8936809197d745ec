"""Addresses of Redis servers and sentinels."""

from __future__ import annotations

import ssl

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.remote.redis_address import Endpoint, parse_address


def test_an_address_may_be_a_host_alone():
    address = parse_address("redis://cache")
    assert address.endpoint == Endpoint("cache", 6379)
    assert (address.login.username, address.login.password) == ("", "")
    assert (address.login.database, address.login.tls, address.sentinels) == (0, None, None)


def test_an_address_may_say_everything():
    address = parse_address("rediss://us%40er:p%3Ass@[::1]:7000/3")
    assert address.endpoint == Endpoint("::1", 7000)
    assert str(address.endpoint) == "[::1]:7000"
    assert (address.login.username, address.login.password) == ("us@er", "p:ss")
    assert address.login.database == 3
    assert address.login.tls is not None
    assert address.login.tls.verify_mode is ssl.CERT_REQUIRED
    assert "p:ss" not in repr(address)


def test_a_certificate_need_not_be_good_if_the_address_says_so():
    tls = parse_address("rediss://cache/#insecure").login.tls
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_NONE


def test_a_sentinels_address_names_the_master_and_both_logins():
    address = parse_address(
        "redis+sentinel://u:p@watcher/2?sentinelServiceName=blobs&sentinelUsername=w"
        "&sentinelPassword=q"
    )
    assert address.endpoint == Endpoint("watcher", 26379)
    assert (address.login.username, address.login.password, address.login.database) == ("u", "p", 2)
    assert address.sentinels is not None
    assert address.sentinels.service == "blobs"
    own = address.sentinels.login
    assert (own.username, own.password, own.database) == ("w", "q", 0)


def test_sentinels_call_the_master_master_unless_told_otherwise():
    address = parse_address("redis+sentinel://watcher")
    assert address.sentinels is not None
    assert address.sentinels.service == "master"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://:secret@cache", "unknown scheme 'http'"),
        ("redis://:secret@", "there is no host"),
        ("redis://:secret@cache:port", "port"),
        ("redis://:secret@cache/first", "the database is no number"),
        # A "/" that was not escaped: what is behind it is a path, what is before it a port.
        ("redis://:pass/secret@cache:6379", "%2F"),
        ("redis://user:secret/word@cache:6379", "%2F"),
        ("redis://user:12/secret@cache:6379", "the database is no number"),
        ("redis://user:pass[secret@cache:6379", "%2F"),
        ("redis://:secret\u2100@cache:6379", "%2F"),
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(url: str, why: str):
    with pytest.raises(NativeLinkError) as caught:
        parse_address(url)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert why in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
