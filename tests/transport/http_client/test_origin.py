"""What is downloaded: contents, limits, answers of every kind."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter

import pytest

from nativelink.core.errors import Code, NativeLinkError, resource_exhausted
from nativelink.core.streams import BytesSink, Chunk
from nativelink.testing.fakes import wait_until
from tests.transport.http_client.origins import BODY, origin, read, refused
from tests.transport.http_client.site import Site, answer


class TestContents:
    async def test_they_come_as_they_are(self, site: Site) -> None:
        site.pages["/a?b=c"] = answer(BODY)

        assert await read(origin(), site.url("/a?b=c")) == BODY

    async def test_chunked_ones_are_put_together(self, site: Site) -> None:
        async def chunked(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n")

        site.pages["/"] = chunked

        assert await read(origin(), site.url("/")) == b"abcdefg"

    async def test_those_that_end_with_the_connection_are_taken(self, site: Site) -> None:
        async def unbounded(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
            await writer.drain()
            writer.write_eof()
            await wait_until(writer.transport.is_closing)

        site.pages["/"] = unbounded

        assert await read(origin(), site.url("/")) == b"all of it"

    async def test_nothing_is_something_too(self, site: Site) -> None:
        site.pages["/"] = answer(b"")

        assert await read(origin(), site.url("/")) == b""

    async def test_no_compression_is_asked_for(self, site: Site) -> None:
        site.pages["/"] = answer(b"x")

        await read(origin(user_agent="nativelink/1"), site.url("/"), (("X-Own", "1"),))

        assert site.asked[0].headers == {
            "host": f"127.0.0.1:{site.port}",
            "x-own": "1",
            "user-agent": "nativelink/1",
            "accept": "*/*",
            "accept-encoding": "identity",
            "connection": "close",
        }

    async def test_a_compression_that_was_not_asked_for_is_taken_off(self, site: Site) -> None:
        packed = gzip.compress(BODY) + gzip.compress(b"a second member")
        site.pages["/plain.txt"] = answer(packed, Content_Encoding="gzip")

        assert await read(origin(), site.url("/plain.txt")) == BODY + b"a second member"

    @pytest.mark.parametrize("size", [256 * 1024, 512 * 1024, 256 * 1024 + 1])
    async def test_no_byte_of_it_stays_inside(self, site: Site, size: int) -> None:
        site.pages["/zeros"] = answer(gzip.compress(bytes(size)), Content_Encoding="gzip")

        assert await read(origin(), site.url("/zeros")) == bytes(size)

    async def test_an_archive_that_is_compressed_by_itself_stays_so(self, site: Site) -> None:
        packed = gzip.compress(BODY)
        site.pages["/a.tar.gz?x"] = answer(packed, Content_Encoding="gzip")

        assert await read(origin(), site.url("/a.tar.gz?x")) == packed

    @pytest.mark.parametrize(
        ("body", "encoding", "code"),
        [
            (b"not gzip at all", "gzip", Code.ABORTED),
            (gzip.compress(BODY)[:-9], "gzip", Code.UNAVAILABLE),
            (b"x", "br", Code.ABORTED),
        ],
        ids=["no gzip", "gzip without its end", "unknown"],
    )
    async def test_a_compression_that_cannot_be_taken_off_is_an_error(
        self, site: Site, body: bytes, encoding: str, code: Code
    ) -> None:
        site.pages["/"] = answer(body, Content_Encoding=encoding)

        assert (await refused(origin(), site.url("/"))).code is code

    async def test_tiny_chunks_let_others_have_a_turn(self, site: Site) -> None:
        count = 3000
        turn = 0
        written: Counter[int] = Counter()

        async def chunked(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"1\r\nx\r\n" * count + b"0\r\n\r\n")

        async def others() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        class Noting:
            async def write(self, chunk: Chunk, /) -> None:
                written[turn] += len(chunk)

        site.pages["/"] = chunked
        async with asyncio.TaskGroup() as tasks:
            busy = tasks.create_task(others())
            await origin().read(site.url("/"), (), Noting())
            busy.cancel()

        assert written.total() == count
        assert max(written.values()) <= 64


class TestLimits:
    async def test_what_is_announced_as_too_large_is_not_read(self, site: Site) -> None:
        site.pages["/"] = answer(BODY)
        sink = BytesSink()

        with pytest.raises(NativeLinkError, match="1000 bytes are allowed") as raised:
            await origin(max_size_bytes=1000).read(site.url("/"), (), sink)
        assert raised.value.code is Code.RESOURCE_EXHAUSTED
        assert not raised.value.retryable
        assert sink.size == 0

    async def test_what_turns_out_to_be_too_large_is_given_up(self, site: Site) -> None:
        async def endless(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not writer.transport.is_closing():
                writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
                await writer.drain()

        site.pages["/"] = endless

        failure = await refused(origin(max_size_bytes=100_000), site.url("/"))

        assert failure.code is Code.RESOURCE_EXHAUSTED

    async def test_a_small_answer_cannot_become_a_large_one(self, site: Site) -> None:
        site.pages["/bomb"] = answer(gzip.compress(bytes(5_000_000)), Content_Encoding="gzip")
        sink = BytesSink()

        with pytest.raises(NativeLinkError) as raised:
            await origin(max_size_bytes=1_000_000).read(site.url("/bomb"), (), sink)
        assert raised.value.code is Code.RESOURCE_EXHAUSTED
        assert sink.size <= 1_000_000

    async def test_many_members_with_nothing_in_them_are_given_up(self, site: Site) -> None:
        # Without a bound, each costs a decompressor and nothing counts against the size.
        many = gzip.compress(b"") * 50_000
        site.pages["/members"] = answer(many, Content_Encoding="gzip")

        failure = await refused(origin(), site.url("/members"))

        assert (failure.code, "101 members" in failure.message) == (Code.ABORTED, True)

    async def test_many_members_with_something_in_them_are_taken(self, site: Site) -> None:
        members = [gzip.compress(b"%0512d" % number) for number in range(300)]
        site.pages["/members"] = answer(b"".join(members), Content_Encoding="gzip")

        assert len(await read(origin(), site.url("/members"))) == 300 * 512

    async def test_a_head_without_an_end_is_given_up(self, site: Site) -> None:
        async def chatter(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while not writer.transport.is_closing():
                writer.write(b"X-Y: " + b"z" * 1000 + b"\r\n")
                await writer.drain()

        site.pages["/"] = chatter

        assert (await refused(origin(), site.url("/"))).code is Code.UNAVAILABLE

    async def test_interim_answers_do_not_go_on_for_ever(self, site: Site) -> None:
        async def hints(writer: asyncio.StreamWriter) -> None:
            while not writer.transport.is_closing():
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                await asyncio.sleep(0)

        site.pages["/"] = hints

        assert (await refused(origin(), site.url("/"))).code is Code.UNAVAILABLE

    async def test_silence_ends_it(self, site: Site) -> None:
        async def silence(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            await wait_until(writer.transport.is_closing)

        site.pages["/"] = silence

        failure = await refused(origin(idle_timeout_s=0.01), site.url("/"))

        assert failure.code is Code.UNAVAILABLE
        assert "nothing came" in failure.message


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "code", "retryable"),
        [
            ("404 Not Found", Code.NOT_FOUND, False),
            ("410 Gone", Code.NOT_FOUND, False),
            ("401 Unauthorized", Code.PERMISSION_DENIED, False),
            ("403 Forbidden", Code.PERMISSION_DENIED, False),
            ("429 Too Many Requests", Code.UNAVAILABLE, True),
            ("500 Internal Server Error", Code.UNAVAILABLE, True),
            ("503 Service Unavailable", Code.UNAVAILABLE, True),
            ("204 No Content", Code.ABORTED, False),
            ("206 Partial Content", Code.ABORTED, False),
            ("304 Not Modified", Code.ABORTED, False),
            ("400 Bad Request", Code.ABORTED, False),
        ],
    )
    async def test_a_status_means_something(
        self, site: Site, status: str, code: Code, retryable: bool
    ) -> None:
        site.pages["/x?secret"] = answer(b"", status)

        failure = await refused(origin(), site.url("/x?secret"))

        assert failure.code is code
        assert failure.retryable == retryable
        assert failure.message == f"{site.url('/x')}: the origin answered {status}"

    async def test_a_connection_that_breaks_may_be_better_next_time(self, site: Site) -> None:
        async def half(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf")

        async def nothing(_writer: asyncio.StreamWriter) -> None:
            pass

        async def no_http(writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

        for page in (half, nothing, no_http):
            site.pages["/"] = page
            failure = await refused(origin(), site.url("/"))
            assert failure.code is Code.UNAVAILABLE
            assert failure.retryable

    async def test_a_port_where_nobody_listens_is_unavailable(self, site: Site) -> None:
        failure = await refused(origin("127.0.0.2:*"), site.url("/", "127.0.0.2"))

        assert failure.code is Code.UNAVAILABLE
        assert failure.retryable

    async def test_the_next_address_is_tried(self, site: Site) -> None:
        site.pages["/"] = answer(b"here")
        names = {"two.test": [["127.0.0.2", "127.0.0.1"]]}

        assert await read(origin("two.test:*", names=names), site.url("/", "two.test")) == b"here"

    async def test_the_failure_of_who_takes_it_is_passed_on(self, site: Site) -> None:
        class Full:
            async def write(self, _chunk: Chunk, /) -> None:
                raise resource_exhausted("no room")

        site.pages["/"] = answer(BODY)

        with pytest.raises(NativeLinkError, match="no room"):
            await origin().read(site.url("/"), (), Full())
