"""Downloads: one for all who ask, mirrors, tries, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    not_found,
    permission_denied,
    unavailable,
)
from nativelink.core.retry import Retry
from nativelink.core.streams import Sink, Source
from nativelink.services.remote_asset.downloads import Download, Downloads, Fetched, Refused
from nativelink.services.remote_asset.index import AssetIndex, Kind
from nativelink.services.remote_asset.integrity import parse_integrity
from nativelink.services.remote_asset.qualifiers import Headers, Qualifiers
from nativelink.testing.fakes import DictStore, FakeClock, wait_until

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
URI, MIRROR = "https://a.org/x?token=secret", "https://b.org/x"
DATA = b"contents " * 100_000


def sri(algorithm: str, data: bytes) -> tuple[str, str]:
    raw = hashlib.new(algorithm, data).digest()
    return "checksum.sri", f"{algorithm}-{base64.b64encode(raw).decode()}"


def wanted(
    *uris: str,
    qualifiers: Qualifiers = (),
    function: DigestFunction = SHA256,
    headers: Headers = (),
) -> Download:
    checksums = tuple(parse_integrity(text) for name, text in qualifiers if name == "checksum.sri")
    return Download(
        tuple((uri, headers) for uri in uris or (URI,)), qualifiers, checksums, function
    )


class Origin:
    """A web of URIs: data, errors, or a list of either that is used up from its front."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {URI: DATA, MIRROR: DATA}
        self.asked: list[tuple[str, Headers]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = 0
        #: Pages that begin so wait for the gate, which others find open.
        self.hanging = ""

    async def read(self, uri: str, headers: Headers, sink: Sink, /) -> None:
        self.asked.append((uri, headers))
        self.reading += 1
        try:
            if uri.startswith(self.hanging):
                await self.gate.wait()
        finally:
            self.reading -= 1
        page = self.pages.get(uri, not_found(f"{uri} is not there"))
        if isinstance(page, list):
            page = page.pop(0)
        if isinstance(page, Exception):
            raise page
        for start in range(0, len(page), 300_000):
            await sink.write(page[start : start + 300_000])


class Recorder:
    """What was recorded."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def ended(self, result: str, size_bytes: int, _seconds: float, /) -> None:
        self.seen.append((result, size_bytes))


class World:
    """Downloads with everything around them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.clock = FakeClock()
        self.store = DictStore()
        self.cas: DictStore = settings.pop("cas", None) or DictStore()
        self.index = AssetIndex(settings.pop("store", self.store), clock=self.clock)
        self.origin = Origin()
        self.slept: list[float] = []
        self.recorder = Recorder()

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        self.downloads = Downloads(
            self.origin,
            self.cas,
            index=self.index,
            clock=self.clock,
            retry=Retry(2, 1.0, sleep=sleep),
            folder=folder,
            recorder=self.recorder,
            **settings,
        )

    async def known(self, uri: str, qualifiers: Qualifiers = ()) -> list[Any]:
        """What the index has."""
        return list(await self.index.find(Kind.BLOB, uri, [qualifiers]))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.downloads:
        yield world


class TestContents:
    @pytest.mark.parametrize("function", DigestFunction)
    async def test_they_go_to_the_cas_under_the_digest_that_was_asked_for(
        self, world: World, function: DigestFunction
    ) -> None:
        outcome = await world.downloads.fetch(wanted(function=function))

        digest = function.digest_of(DATA)
        assert outcome == Fetched(URI, digest, world.clock.time())
        assert world.cas.blobs == {digest: DATA}
        assert world.recorder.seen == [("ok", len(DATA))]

    async def test_what_the_cas_has_is_not_stored_again(self, tmp_path: Path) -> None:
        class ReadOnly(DictStore):
            async def put(self, key: Any, source: Source) -> int:
                raise AssertionError

        cas = ReadOnly()
        cas.blobs[SHA256.digest_of(DATA)] = DATA
        world = World(tmp_path, cas=cas)
        async with world.downloads:
            assert isinstance(await world.downloads.fetch(wanted()), Fetched)

    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    async def test_a_checksum_that_holds_is_fine(self, world: World, algorithm: str) -> None:
        outcome = await world.downloads.fetch(wanted(qualifiers=(sri(algorithm, DATA),)))

        assert isinstance(outcome, Fetched)

    async def test_all_checksums_must_hold(self, world: World) -> None:
        for second, code in ((DATA, None), (b"other", Code.ABORTED)):
            qualifiers = (sri("sha256", DATA), sri("sha512", second))
            outcome = await world.downloads.fetch(wanted(qualifiers=qualifiers))
            assert (outcome.code if isinstance(outcome, Refused) else None) is code

    async def test_other_contents_are_refused_with_both_checksums(self, world: World) -> None:
        outcome = await world.downloads.fetch(wanted(qualifiers=(sri("sha256", b"other"),)))

        assert isinstance(outcome, Refused)
        assert outcome.code is Code.ABORTED
        assert hashlib.sha256(DATA).hexdigest() in outcome.message
        assert hashlib.sha256(b"other").hexdigest() in outcome.message
        assert "secret" not in outcome.message
        assert world.cas.blobs == {}
        assert world.store.blobs == {}
        # It is not asked for again: it would be the same.
        assert len(world.origin.asked) == 1

    async def test_a_cas_that_fails_is_an_error_of_this_server(self, tmp_path: Path) -> None:
        class Down(DictStore):
            async def put(self, key: Any, source: Source) -> int:
                raise unavailable("the CAS is down")

        world = World(tmp_path, cas=Down())
        async with world.downloads:
            with pytest.raises(NativeLinkError, match="CAS is down"):
                await world.downloads.fetch(wanted())
            # The origin is not to blame: nobody asks it once more.
            assert len(world.origin.asked) == 1

    async def test_a_full_disk_is_an_error_of_this_server(self, tmp_path: Path) -> None:
        world = World(tmp_path / "absent")
        async with world.downloads:
            with pytest.raises(NativeLinkError, match="no room"):
                await world.downloads.fetch(wanted())

    async def test_a_defect_is_told_to_who_asked_and_ends_nothing_else(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.origin.pages[URI] = KeyError("a defect")

        with pytest.raises(NativeLinkError, match="a defect") as raised:
            await world.downloads.fetch(wanted())

        assert raised.value.code is Code.INTERNAL
        assert "a defect" in caplog.text
        assert "secret" not in caplog.text
        assert isinstance(await world.downloads.fetch(wanted(MIRROR)), Fetched)


class TestMirrors:
    async def test_they_are_tried_in_order(self, world: World) -> None:
        world.origin.pages[URI] = not_found("gone")

        outcome = await world.downloads.fetch(wanted(URI, MIRROR))

        assert isinstance(outcome, Fetched)
        assert outcome.uri == MIRROR

    async def test_one_with_other_contents_is_passed_over(self, world: World) -> None:
        world.origin.pages[URI] = b"an error page"

        outcome = await world.downloads.fetch(
            wanted(URI, MIRROR, qualifiers=(sri("sha256", DATA),))
        )

        assert isinstance(outcome, Fetched)
        assert outcome.uri == MIRROR

    async def test_all_are_tried_before_any_is_tried_again(self, world: World) -> None:
        world.origin.pages[URI] = [unavailable("busy"), unavailable("busy"), DATA]
        world.origin.pages[MIRROR] = [unavailable("busy")] * 3

        outcome = await world.downloads.fetch(wanted(URI, MIRROR))

        assert isinstance(outcome, Fetched)
        assert [uri for uri, _ in world.origin.asked] == [URI, MIRROR, URI, MIRROR, URI]
        assert world.slept == [2.0, 4.0]

    async def test_what_will_not_get_better_is_not_tried_again(self, world: World) -> None:
        world.origin.pages[URI] = permission_denied("forbidden")
        world.origin.pages[MIRROR] = [unavailable("busy")] * 3

        outcome = await world.downloads.fetch(wanted(URI, MIRROR))

        assert outcome == Refused(MIRROR, Code.UNAVAILABLE, "busy; forbidden")
        assert [uri for uri, _ in world.origin.asked] == [URI, MIRROR, MIRROR, MIRROR]

    async def test_the_most_telling_error_is_the_answer(self, world: World) -> None:
        world.origin.pages[URI] = not_found("gone")
        world.origin.pages[MIRROR] = permission_denied("forbidden")

        outcome = await world.downloads.fetch(wanted(URI, MIRROR))

        assert outcome == Refused(MIRROR, Code.PERMISSION_DENIED, "forbidden; gone")
        assert world.recorder.seen == [("permission_denied", 0)]

    async def test_half_of_a_failed_try_is_no_part_of_the_next(self, world: World) -> None:
        class Breaking(Origin):
            async def read(self, uri: str, headers: Headers, sink: Sink, /) -> None:
                if not self.asked:
                    await sink.write(bytes(900_000))
                    self.asked.append((uri, headers))
                    raise unavailable("it broke")
                await super().read(uri, headers, sink)

        world.downloads._origin = Breaking()
        outcome = await world.downloads.fetch(wanted(qualifiers=(sri("sha512", DATA),)))

        assert isinstance(outcome, Fetched)
        assert world.cas.blobs == {SHA256.digest_of(DATA): DATA}


class TestTogether:
    async def test_equal_ones_are_one(self, world: World) -> None:
        world.origin.gate.clear()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(world.downloads.fetch(wanted())) for _ in range(5)]
            other = group.create_task(world.downloads.fetch(wanted(function=BLAKE3)))
            await wait_until(lambda: world.origin.reading == 2)
            world.origin.gate.set()

        assert len({call.result() for call in calls}) == 1
        assert other.result() != calls[0].result()
        assert len(world.origin.asked) == 2

    async def test_failures_are_not_remembered(self, world: World) -> None:
        world.origin.pages[URI] = [not_found("not yet"), DATA]

        assert isinstance(await world.downloads.fetch(wanted()), Refused)
        assert isinstance(await world.downloads.fetch(wanted()), Fetched)

    async def test_it_goes_on_when_its_call_ends(self, world: World) -> None:
        world.origin.gate.clear()
        call = asyncio.create_task(world.downloads.fetch(wanted(qualifiers=(sri("sha256", DATA),))))
        await wait_until(lambda: world.origin.reading == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        world.origin.gate.set()
        await wait_until(lambda: bool(world.recorder.seen))

        assert len(await world.known(URI, (sri("sha256", DATA),))) == 1

    async def test_who_waits_no_longer_is_told_so(self, world: World) -> None:
        world.origin.gate.clear()

        outcome = await world.downloads.fetch(wanted(), timeout_s=0.001)

        assert isinstance(outcome, Refused)
        assert outcome.code is Code.DEADLINE_EXCEEDED
        assert world.origin.reading == 1

    async def test_there_are_not_too_many_at_a_time(self, tmp_path: Path) -> None:
        world = World(tmp_path, max_concurrent=1)
        async with world.downloads, asyncio.TaskGroup() as group:
            world.origin.gate.clear()
            first = group.create_task(world.downloads.fetch(wanted(URI)))
            await wait_until(lambda: world.origin.reading == 1)
            second = group.create_task(world.downloads.fetch(wanted(MIRROR)))
            given_up = group.create_task(world.downloads.fetch(wanted("https://c.org/x")))
            await asyncio.sleep(0)
            assert world.origin.reading == 1
            given_up.cancel()
            await asyncio.sleep(0)
            world.origin.gate.set()

        assert isinstance(first.result(), Fetched)
        assert isinstance(second.result(), Fetched)
        # What nobody waited for any more never began.
        assert [uri for uri, _ in world.origin.asked] == [URI, MIRROR]

    async def test_a_host_that_hangs_keeps_nobody_from_the_others(self, tmp_path: Path) -> None:
        world = World(tmp_path, max_concurrent=4)
        slow = [f"https://slow.org/{number}" for number in range(10)]
        quick = [MIRROR, "https://c.org/x", "https://C.org/y"]
        world.origin.pages |= dict.fromkeys((*slow, *quick), DATA)
        world.origin.hanging = "https://slow.org/"
        world.origin.gate.clear()
        async with world.downloads, asyncio.TaskGroup() as group:
            hanging = [group.create_task(world.downloads.fetch(wanted(uri))) for uri in slow]
            await wait_until(lambda: world.origin.reading == 2)
            for uri in quick:
                assert isinstance(await world.downloads.fetch(wanted(uri)), Fetched)
            assert world.origin.reading == 2
            hanging.pop().cancel()
            world.origin.gate.set()
        assert all(isinstance(each.result(), Fetched) for each in hanging)
        assert not world.downloads._slots._hosts

    async def test_what_was_given_up_before_it_began_is_begun_by_the_next(
        self, world: World
    ) -> None:
        call = asyncio.create_task(world.downloads.fetch(wanted()))
        await asyncio.sleep(0)
        call.cancel()
        outcome = await world.downloads.fetch(wanted())

        assert isinstance(outcome, Fetched)

    async def test_it_ends_after_its_time(self, tmp_path: Path) -> None:
        world = World(tmp_path, timeout_s=0.001)
        async with world.downloads:
            world.origin.gate.clear()
            outcome = await world.downloads.fetch(wanted())

        assert isinstance(outcome, Refused)
        assert outcome.code is Code.DEADLINE_EXCEEDED
        assert world.origin.reading == 0
        assert world.recorder.seen == [("deadline_exceeded", 0)]

    async def test_one_that_began_too_early_is_not_joined(self, world: World) -> None:
        world.origin.gate.clear()
        async with asyncio.TaskGroup() as group:
            early = group.create_task(world.downloads.fetch(wanted()))
            await wait_until(lambda: world.origin.reading == 1)
            world.clock.advance(10)
            now = world.clock.time()
            late = group.create_task(world.downloads.fetch(wanted(), not_before=now - 5))
            await wait_until(lambda: world.origin.reading == 2)
            world.origin.gate.set()

        assert late.result() != early.result()
        assert isinstance(late.result(), Fetched)

    async def test_a_repeated_request_for_contents_of_the_future_joins_its_own(
        self, world: World
    ) -> None:
        # Bazel asks so where it has no checksum, and repeats the same request after a minute.
        future = world.clock.time() + 3600
        world.origin.gate.clear()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(world.downloads.fetch(wanted(), not_before=future))
            await wait_until(lambda: world.origin.reading == 1)
            world.clock.advance(60)
            again = group.create_task(world.downloads.fetch(wanted(), not_before=future))
            other = group.create_task(world.downloads.fetch(wanted(), not_before=future + 1))
            await wait_until(lambda: world.origin.reading == 2)
            world.origin.gate.set()

        assert again.result() == first.result()
        assert other.result() != first.result()
        assert len(world.origin.asked) == 2

    async def test_the_end_of_the_service_ends_all_of_them(self, tmp_path: Path) -> None:
        world = World(tmp_path, max_concurrent=4)
        async with world.downloads:
            world.origin.gate.clear()
            # The second asks for newer contents than the first, the third waits for a slot, and
            # the fourth has not begun at all.
            calls = [
                asyncio.create_task(world.downloads.fetch(wanted(), not_before=oldest))
                for oldest in (0, world.clock.time() + 1)
            ]
            await wait_until(lambda: world.origin.reading == 2)
            calls.append(asyncio.create_task(world.downloads.fetch(wanted("https://a.org/y"))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            calls.append(asyncio.create_task(world.downloads.fetch(wanted("https://c.org"))))
            await asyncio.sleep(0)

        for call in calls:
            with pytest.raises(NativeLinkError, match="ended the download"):
                await call
        assert world.origin.reading == 0


class TestMemory:
    async def test_with_a_checksum_all_uris_lead_there(self, world: World) -> None:
        checksum, identity = sri("sha256", DATA), ("bazel.canonical_id", "x-1.0")
        world.origin.pages[URI] = not_found("gone")
        await world.downloads.fetch(
            wanted(URI, MIRROR, qualifiers=(checksum, identity), headers=(("X", "secret"),))
        )

        for uri in (URI, MIRROR):
            (asset,) = await world.known(uri, (identity, checksum))
            assert asset.digest == SHA256.digest_of(DATA)
            assert asset.expires_at is None
            assert asset.content_time == world.clock.time()
        assert await world.known(URI, (checksum,)) == []
        assert not any(b"X" in value for value in world.store.blobs.values())

    async def test_without_one_nothing_is_remembered(self, world: World) -> None:
        await world.downloads.fetch(wanted())

        assert world.store.blobs == {}

    async def test_without_one_it_is_remembered_as_long_as_the_operator_says(
        self, tmp_path: Path
    ) -> None:
        world = World(tmp_path, reuse_unverified_s=60)
        async with world.downloads:
            world.origin.pages[URI] = not_found("gone")
            await world.downloads.fetch(wanted(URI, MIRROR))

            assert await world.known(URI) == []
            (asset,) = await world.known(MIRROR)
            assert asset.expires_at.seconds == world.clock.time() + 60

            # What one was told who sent a header is not for others.
            await world.downloads.fetch(wanted("https://c.org", headers=(("X", "1"),)))
            assert await world.known("https://c.org") == []

    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("https://a.org/@scope/pkg.tgz?token=secret", "https://a.org/@scope/pkg.tgz:"),
            ("https://ada:secret@a.org/x", "https://a.org/x:"),
            ("https://a.org", "https://a.org:"),
        ],
    )
    async def test_a_log_names_what_was_downloaded_without_what_may_be_secret(
        self, world: World, caplog: pytest.LogCaptureFixture, uri: str, shown: str
    ) -> None:
        caplog.set_level("INFO")
        world.origin.pages[uri] = DATA

        assert isinstance(await world.downloads.fetch(wanted(uri)), Fetched)

        assert f"downloaded {shown}" in caplog.text
        assert "secret" not in caplog.text

    async def test_an_index_that_fails_costs_only_the_memory(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Down(DictStore):
            async def put(self, key: Any, source: Source) -> int:
                raise unavailable("the index is down")

        world = World(tmp_path, store=Down())
        async with world.downloads:
            outcome = await world.downloads.fetch(wanted(qualifiers=(sri("sha256", DATA),)))

        assert isinstance(outcome, Fetched)
        assert "will be downloaded again" in caplog.text
        assert "secret" not in caplog.text
