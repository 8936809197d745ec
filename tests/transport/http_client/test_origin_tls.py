"""Whom a download trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from nativelink.core.errors import NativeLinkError
from nativelink.transport.http_client.origin import origin_tls
from tests.transport.authority import Authority
from tests.transport.http_client.origins import BODY, origin, read, refused
from tests.transport.http_client.site import answer, open_site


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path)

    @pytest.fixture
    def context(self, authority: Authority) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*authority.issue("site"))
        return context

    async def test_a_certificate_of_the_named_host_is_taken(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        async with open_site(context) as site:
            site.pages["/"] = answer(BODY)
            trusting = origin(
                "localhost:*",
                names={"localhost": [["127.0.0.1"]]},
                ca_file=authority.file,
                allow_http=False,
            )
            assert await read(trusting, site.url("/", "localhost")) == BODY

    @pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("other.test", True)])
    async def test_any_other_certificate_is_not(
        self, authority: Authority, context: ssl.SSLContext, host: str, trusted: bool
    ) -> None:
        async with open_site(context) as site:
            site.pages["/"] = answer(BODY)
            asking = origin(
                "*:*",
                names={host: [["127.0.0.1"]]},
                ca_file=authority.file if trusted else None,
            )
            failure = await refused(asking, site.url("/", host))

        assert "certificate" in failure.message
        assert not failure.retryable
        assert site.asked == []

    def test_a_file_that_holds_no_certificate_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "none").write_text("nothing")

        for name in ("none", "absent"):
            with pytest.raises(NativeLinkError, match="ca_file"):
                origin_tls(tmp_path / name)
