"""From whom is downloaded: allowed hosts and addresses, and where they redirect to."""

from __future__ import annotations

import ipaddress

import pytest

from nativelink.core.errors import Code
from nativelink.core.hosts import parse_host_pattern
from nativelink.transport.http_client.addresses import AddressPolicy
from nativelink.transport.http_client.origin import HttpOrigin, OriginSettings
from tests.transport.http_client.origins import BODY, LOOPBACK, origin, read, refused, tls_with
from tests.transport.http_client.site import Site, answer, redirect


class TestWhoMayBeAsked:
    async def test_a_host_that_is_not_listed_is_not_even_looked_up(self, site: Site) -> None:
        asked: list[str] = []

        async def lookup(host: str, _port: int) -> list[str]:
            asked.append(host)
            return [host]

        settings = OriginSettings(
            (parse_host_pattern("other.org"),), AddressPolicy((LOOPBACK,)), allow_http=True
        )
        failure = await refused(HttpOrigin(settings, tls_with(None), lookup=lookup), site.url("/"))

        assert failure.code is Code.PERMISSION_DENIED
        assert asked == []
        assert site.asked == []

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "local.test"])
    async def test_this_machine_is_not_asked_unless_its_network_is_named(
        self, site: Site, host: str
    ) -> None:
        names = {"local.test": [["127.0.0.1"]]}

        failure = await refused(origin("*:*", networks=(), names=names), site.url("/", host))

        assert failure.code is Code.PERMISSION_DENIED
        assert site.asked == []

    async def test_a_name_is_looked_up_once_and_connected_to_as_it_was_checked(
        self, site: Site
    ) -> None:
        # The second answer would be this machine; a client that looks the name up again when it
        # connects would reach it.
        names = {"rebound.test": [["203.0.113.9"], ["127.0.0.1"]]}
        documentation = ipaddress.ip_network("203.0.113.0/24")

        failure = await refused(
            origin(
                "rebound.test:*", networks=(documentation,), names=names, connect_timeout_s=0.05
            ),
            site.url("/", "rebound.test"),
        )

        assert failure.code is Code.UNAVAILABLE
        assert site.asked == []
        assert names["rebound.test"] == [["127.0.0.1"]]

    async def test_plain_http_is_not_used_unless_it_is_allowed(self, site: Site) -> None:
        failure = await refused(origin(allow_http=False), site.url("/"))

        assert failure.code is Code.PERMISSION_DENIED
        assert site.asked == []

    @pytest.mark.parametrize("headers", [(("X", "a\r\nHost: b"),), (("X Y", "a"),)])
    async def test_a_header_cannot_hold_another_one(
        self, site: Site, headers: tuple[tuple[str, str], ...]
    ) -> None:
        failure = await refused(origin(), site.url("/"), headers=headers)

        assert failure.code is Code.INVALID_ARGUMENT
        assert site.asked == []


class TestRedirects:
    @pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
    async def test_they_are_followed(self, site: Site, status: str) -> None:
        site.pages["/a"] = redirect("b?c", status)
        site.pages["/b?c"] = answer(BODY)

        assert await read(origin(), site.url("/a")) == BODY

    async def test_octets_that_no_uri_has_are_asked_for_as_they_came(self, site: Site) -> None:
        site.pages["/a"] = redirect("/ä%2F?ü")
        site.pages["/%C3%A4%2F?%C3%BC"] = answer(BODY)

        assert await read(origin(), site.url("/a")) == BODY

    async def test_they_are_held_against_the_list_of_hosts_again(
        self, site: Site, elsewhere: Site
    ) -> None:
        site.pages["/"] = redirect(elsewhere.url("/"))
        elsewhere.pages["/"] = answer(BODY)

        failure = await refused(origin(f"127.0.0.1:{site.port}"), site.url("/"))

        assert failure.code is Code.PERMISSION_DENIED
        assert elsewhere.asked == []

    async def test_they_are_held_against_the_networks_again(
        self, site: Site, elsewhere: Site
    ) -> None:
        site.pages["/"] = redirect(f"http://inside.test:{elsewhere.port}/")
        names = {"inside.test": [["127.0.0.1"]], "outside.test": [["127.0.0.1"], ["10.0.0.1"]]}
        only = ipaddress.ip_network("127.0.0.1/32")

        class OnlyOnce(AddressPolicy):
            """Stands for a public address at first: the site of the test is on loopback."""

            checked = 0

            def allows(self, text: str) -> bool:
                self.checked += 1
                return self.checked == 1 and super().allows(text)

        async def lookup(host: str, _port: int) -> list[str]:
            return names[host][0]

        settings = OriginSettings((parse_host_pattern("*:*"),), OnlyOnce((only,)), allow_http=True)
        failure = await refused(
            HttpOrigin(settings, tls_with(None), lookup=lookup), site.url("/", "outside.test")
        )

        assert failure.code is Code.PERMISSION_DENIED
        assert "inside.test" in failure.message
        assert elsewhere.asked == []

    @pytest.mark.parametrize(
        "location",
        ["file:///etc/passwd", "gopher://127.0.0.1/", "http://a:b@127.0.0.1/"],
    )
    async def test_they_lead_nowhere_else_than_to_http(self, site: Site, location: str) -> None:
        site.pages["/"] = redirect(location)

        failure = await refused(origin("*:*"), site.url("/"))

        assert failure.code is Code.INVALID_ARGUMENT

    async def test_a_circle_ends(self, site: Site) -> None:
        site.pages["/"] = redirect("/")

        failure = await refused(origin(), site.url("/"))

        assert failure.code is Code.ABORTED
        assert not failure.retryable
        assert len(site.asked) == 21

    async def test_one_without_a_target_is_an_error(self, site: Site) -> None:
        site.pages["/"] = answer(b"", "302 Found")

        assert (await refused(origin(), site.url("/"))).code is Code.ABORTED

    async def test_credentials_stay_with_the_server_that_they_are_for(
        self, site: Site, elsewhere: Site
    ) -> None:
        site.pages["/"] = redirect("/again")
        site.pages["/again"] = redirect(elsewhere.url("/there"))
        elsewhere.pages["/there"] = redirect(site.url("/back"))
        site.pages["/back"] = answer(BODY)
        headers = (
            ("Authorization", "Bearer secret"),
            ("Cookie", "secret"),
            ("X-JFrog-Art-Api", "secret"),
            ("User-Agent", "Bazel/7"),
            ("Accept", "application/octet-stream"),
        )

        assert await read(origin(), site.url("/"), headers) == BODY

        sent = [set(each.headers) for each in (*site.asked, *elsewhere.asked)]
        secret = {"authorization", "cookie", "x-jfrog-art-api"}
        assert [bool(each & secret) for each in sent] == [True, True, False, False]
        there = elsewhere.asked[0].headers
        assert there["user-agent"] == "Bazel/7"
        assert there["accept"] == "application/octet-stream"
