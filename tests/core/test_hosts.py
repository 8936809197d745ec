"""Patterns of hosts: what they match, and what is none."""

import pytest

from nativelink.core.hosts import parse_host_pattern


@pytest.mark.parametrize(
    ("pattern", "host", "port", "is_default"),
    [
        ("example.org", "example.org", 443, True),
        ("Example.ORG", "example.org", 443, True),
        ("example.org.", "example.org", 443, True),
        ("example.org:8443", "example.org", 8443, False),
        ("example.org:443", "example.org", 443, True),
        ("example.org:*", "example.org", 1, False),
        ("*.example.org", "a.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 80, True),
        ("*", "anything.at.all", 443, True),
        ("*:*", "anything.at.all", 12345, False),
        ("192.0.2.1", "192.0.2.1", 443, True),
        ("[2001:DB8::1]:8443", "2001:db8::1", 8443, False),
        ("[2001:db8:0::1]", "2001:db8::1", 443, True),
    ],
)
def test_a_pattern_matches(pattern: str, host: str, port: int, is_default: bool) -> None:
    assert parse_host_pattern(pattern).matches(host, port, is_default_port=is_default)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "is_default"),
    [
        ("example.org", "example.org", 8443, False),
        ("example.org", "evil-example.org", 443, True),
        ("example.org", "example.org.evil.net", 443, True),
        ("example.org", "a.example.org", 443, True),
        ("*.example.org", "example.org", 443, True),
        ("*.example.org", "evilexample.org", 443, True),
        ("example.org:8443", "example.org", 443, True),
        ("*", "example.org", 8080, False),
    ],
)
def test_a_pattern_does_not_match(pattern: str, host: str, port: int, is_default: bool) -> None:
    assert not parse_host_pattern(pattern).matches(host, port, is_default_port=is_default)


@pytest.mark.parametrize(
    "text",
    [
        "", "https://example.org", "example.org/path", "a b", "*example.org", "a.*.org", "**", "*.",
        "example.org:0", "example.org:65536", "example.org:http", "[::1", "[nonsense]", "::1",
        "-a.org", "a..b", "user@example.org", "x" * 300,
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_host_pattern(text)
