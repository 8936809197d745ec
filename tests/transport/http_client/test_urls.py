"""URLs have one reading or none."""

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.hosts import parse_host_pattern
from nativelink.transport.http_client.urls import HttpUrl, parse_url, require_allowed


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://example.org", HttpUrl("https", "example.org", 443, "/")),
        ("HTTPS://Example.ORG./a/b?c=d#e", HttpUrl("https", "example.org", 443, "/a/b?c=d")),
        ("http://example.org:8080/", HttpUrl("http", "example.org", 8080, "/")),
        ("https://example.org:443/", HttpUrl("https", "example.org", 443, "/")),
        ("https://[2001:DB8::1]:8443/x", HttpUrl("https", "2001:db8::1", 8443, "/x")),
        # Escapes stay as they are, what is none becomes one.
        ("https://a.org/%2F%41/é?q=ü", HttpUrl("https", "a.org", 443, "/%2F%41/%C3%A9?q=%C3%BC")),
        ("https://a.org/?sig=a%2B%3D&t=1+2", HttpUrl("https", "a.org", 443, "/?sig=a%2B%3D&t=1+2")),
    ],
)
def test_a_url_is_taken_apart(text: str, url: HttpUrl) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ftp://example.org/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("example.org/x", "scheme"),
        ("https:///x", "host name"),
        ("https://example.org\\@evil.net/", "backslashes"),
        ("https://example.org/a b", "spaces"),
        ("https://example.org/\r\nHost: evil", "control characters"),
        ("https://user:secret@example.org/", "has a user"),
        ("https://user:secret/word@example.org/", "host or port"),
        ("https://user:secret\u2100@example.org/", "host or port"),
        ("https://user:secret[@example.org/", "host or port"),
        ("https://@example.org/", "has a user"),
        ("https://example.org:0/", "port 0"),
        ("https://example.org:99999/", "ort"),
        ("https://example.org:x/", "ort"),
        ("https://bücher.example/", "xn--"),
        ("https://exa%6dple.org/", "host name"),
        ("https://[::1/", "host or port"),
        ("https://[fe80::1%25eth0]/", "IPv6|link"),
        ("https://[v1.x]/", "IPv|literal|address"),
        ("https://a..b/", "host name"),
        ("https://" + "a" * 20_000, "longer"),
    ],
)
def test_a_url_with_another_reading_is_refused(text: str, why: str) -> None:
    with pytest.raises(NativeLinkError, match=why) as raised:
        parse_url(text)
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert "secret" not in raised.value.message


def test_a_redirect_is_relative_to_where_it_was_found() -> None:
    url = parse_url("https://example.org:8443/a/b?c=d")

    assert str(url.join("x?y")) == "https://example.org:8443/a/x?y"
    assert str(url.join("//other.org/z")) == "https://other.org/z"
    assert str(url.join("http://[::1]:81/")) == "http://[::1]:81/"
    with pytest.raises(NativeLinkError, match="scheme"):
        url.join("gopher://other.org/")


def test_what_is_logged_of_a_url_has_no_query() -> None:
    assert parse_url("https://a.org/x?X-Amz-Signature=secret").public == "https://a.org/x"


def test_the_host_header_names_a_port_only_where_it_is_not_the_default() -> None:
    assert parse_url("https://a.org:443/").authority == "a.org"
    assert parse_url("http://a.org:443/").authority == "a.org:443"
    assert parse_url("https://[::1]/").authority == "[::1]"


def test_only_listed_hosts_and_schemes_are_allowed() -> None:
    patterns = [parse_host_pattern("a.org"), parse_host_pattern("b.org:8080")]

    require_allowed(parse_url("https://a.org/"), patterns, allow_http=False)
    require_allowed(parse_url("http://b.org:8080/"), patterns, allow_http=True)
    for url, allow_http in (
        ("http://a.org/", False),
        ("https://a.org:8080/", True),
        ("https://c.org/", True),
    ):
        with pytest.raises(NativeLinkError) as raised:
            require_allowed(parse_url(url), patterns, allow_http=allow_http)
        assert raised.value.code is Code.PERMISSION_DENIED
    with pytest.raises(NativeLinkError):
        require_allowed(parse_url("https://a.org/"), (), allow_http=True)
