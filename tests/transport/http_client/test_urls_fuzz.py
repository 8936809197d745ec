"""Whatever a client writes, what is connected to is what was checked."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from nativelink.core.errors import Code, NativeLinkError
from nativelink.transport.http_client.urls import HttpUrl, parse_url

PARTS = st.lists(
    st.sampled_from(
        ["http", "https", "HTTPS", "://", ":", "/", "//", "\\", "@", "#", "?", "%", "%2e", "%00",
         "[", "]", "::1", "127.0.0.1", "0x7f.1", "example.org", "EXAMPLE.org.", "xn--a", "ü", "。",
         "evil.net", ":80", ":443", ":8443", ":0", ":99999", "..", ".", "-", "_", " ", "\t", "\r\n",
         "\x00", "\u2028", "a", "user", "&", "=", ";", ","]
    ),
    max_size=9,
).map("".join)  # fmt: skip
TEXTS = PARTS | st.builds("https://{}".format, PARTS) | st.text(max_size=40)
TARGET = re.compile(r"/[\x21-\x7e]*")


def parsed(read: Callable[[], HttpUrl]) -> HttpUrl | None:
    """A URL, or None where it is refused as it should be."""
    refused: NativeLinkError | None = None
    try:
        return read()
    except NativeLinkError as error:
        refused = error
    assert refused.code is Code.INVALID_ARGUMENT
    return None


@given(TEXTS)
def test_a_url_that_is_taken_has_one_reading(text: str) -> None:
    url = parsed(lambda: parse_url(text))
    if url is None:
        return
    assert TARGET.fullmatch(url.target)
    assert "#" not in url.target
    assert "@" not in url.authority
    assert not set(url.host) & set("/\\@?#% \t")
    assert 0 < url.port < 65_536
    # Written out, another reader finds the same server and the same target in it.
    other = urlsplit(str(url))
    assert (other.scheme, other.hostname) == (url.scheme, url.host)
    assert (other.port or {"http": 80, "https": 443}[url.scheme]) == url.port
    assert parse_url(str(url)) == url


@example("https://a.org", "//[")
@given(TEXTS, TEXTS)
def test_a_redirect_leads_to_a_url_or_nowhere(start: str, location: str) -> None:
    url = parsed(lambda: parse_url(start))
    if url is None:
        return
    there = parsed(lambda: url.join(location))
    assert there is None or parse_url(str(there)) == there
