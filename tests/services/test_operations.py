from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.google.longrunning import operations_pb2 as pb
from nativelink.proto.google.protobuf import duration_pb2, empty_pb2
from nativelink.scheduler.action import ActionInfo, ActionKey, Origin
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.services.operations import OperationsService
from nativelink.testing.calls import Caller
from nativelink.testing.fakes import Turns, wait_until
from tests.services.scheduling import FakeScheduler

SHA256 = DigestFunction.SHA256


class Server:
    """A service of two instances, which one scheduler serves."""

    def __init__(self, **settings: Any) -> None:
        self.scheduler = FakeScheduler()
        self._caller = Caller(
            OperationsService({"a/b": self.scheduler, "": self.scheduler}, **settings).methods()
        )

    async def start(self, text: str, instance: str = "a/b", **origin: str) -> str:
        """Execute something; its name."""
        key = ActionKey(instance, SHA256, SHA256.digest_of(text.encode()))
        await self.scheduler.execute(ActionInfo(key, origin=Origin(**origin)))
        return next(reversed(self.scheduler.views))

    async def get(self, name: str) -> pb.Operation:
        return await self._caller.unary(
            "GetOperation", pb.GetOperationRequest(name=name), pb.Operation
        )

    async def wait(self, name: str, timeout_s: float | None = None) -> pb.Operation:
        request = pb.WaitOperationRequest(name=name)
        if timeout_s is not None:
            request.timeout.CopyFrom(
                duration_pb2.Duration(seconds=int(timeout_s), nanos=int(timeout_s % 1 * 1e9))
            )
        return await self._caller.unary("WaitOperation", request, pb.Operation)

    async def cancel(self, name: str) -> None:
        await self._caller.unary(
            "CancelOperation", pb.CancelOperationRequest(name=name), empty_pb2.Empty
        )

    async def delete(self, name: str) -> None:
        await self._caller.unary(
            "DeleteOperation", pb.DeleteOperationRequest(name=name), empty_pb2.Empty
        )

    async def page(self, name: str = "a/b", **fields: Any) -> pb.ListOperationsResponse:
        return await self._caller.unary(
            "ListOperations",
            pb.ListOperationsRequest(name=name, **fields),
            pb.ListOperationsResponse,
        )

    async def names(self, filter_: str = "", **fields: Any) -> list[str]:
        page = await self.page(filter=filter_, **fields)
        assert not page.next_page_token
        return [operation.name for operation in page.operations]


@pytest.fixture
def server() -> Server:
    return Server()


class TestOneOperation:
    async def test_it_is_shown_as_it_is(self, server: Server) -> None:
        name = await server.start("x")
        operation = await server.get(name)
        assert (operation.name, operation.done) == (name, False)
        server.scheduler.finish(b"\x2a\x02hi")
        operation = await server.get(name)
        assert operation.done
        assert operation.response.value == b"\x2a\x02hi"
        assert not server.scheduler.watches[0].closed

    async def test_it_is_waited_for(self, server: Server) -> None:
        name = await server.start("x")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(server.wait(name))
            await wait_until(lambda: len(server.scheduler.watches) == 2)
            server.scheduler.update(stage=ExecutionStage.EXECUTING)
            server.scheduler.finish(b"")
        assert waiting.result().done
        assert server.scheduler.watches[1].closed
        assert (await server.wait(name)).done

    @pytest.mark.parametrize("timeout_s", [0.0, 0.001])
    async def test_a_wait_ends_with_the_state_of_that_moment(
        self, server: Server, timeout_s: float
    ) -> None:
        name = await server.start("x")
        assert not (await server.wait(name, timeout_s)).done
        assert all(watch.closed for watch in server.scheduler.watches[1:])

    async def test_a_negative_timeout_is_refused(self, server: Server) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.wait(await server.start("x"), -1)
        assert raised.value.code is Code.INVALID_ARGUMENT

    async def test_it_is_cancelled_and_deleted(self, server: Server) -> None:
        name = await server.start("x", instance="")
        assert name == "/1"
        await server.cancel(name)
        assert server.scheduler.cancelled == [name]
        with pytest.raises(NativeLinkError) as raised:
            await server.delete(name)
        assert raised.value.code is Code.FAILED_PRECONDITION
        server.scheduler.finish(b"")
        await server.delete(name)
        assert not server.scheduler.views

    @pytest.mark.parametrize("name", ["a/b/9", "/9", "9", "", "c/1"])
    @pytest.mark.parametrize("method", ["get", "wait", "cancel", "delete"])
    async def test_an_unknown_one_is_not_found(
        self, server: Server, method: str, name: str
    ) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await getattr(server, method)(name)
        assert raised.value.code is Code.NOT_FOUND


class TestLists:
    async def test_an_instance_shows_its_own_oldest_first(self, server: Server) -> None:
        first = await server.start("x")
        await server.start("x", instance="")
        second = await server.start("y")
        server.scheduler.update(first, queued_at=99.0)
        assert await server.names() == [second, first]
        with pytest.raises(NativeLinkError) as raised:
            await server.page("c")
        assert raised.value.code is Code.NOT_FOUND

    async def test_pages_go_on_where_the_last_one_ended(self, server: Server) -> None:
        names = [await server.start(str(number)) for number in range(5)]
        page = await server.page(page_size=2)
        assert [each.name for each in page.operations] == names[:2]
        server.scheduler.finish(b"", names[1])
        await server.delete(names[1])
        page = await server.page(page_size=2, page_token=page.next_page_token)
        assert [each.name for each in page.operations] == names[2:4]
        page = await server.page(page_size=2, page_token=page.next_page_token)
        assert [each.name for each in page.operations] == names[4:]
        assert not page.next_page_token

    async def test_a_page_looks_at_few_operations_however_many_there_are(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [await server.start(str(number)) for number in range(300)]
        looked: list[str] = []
        asked = server.scheduler.operations

        async def operations(*, since: float = 0.0) -> Iterator[OperationView]:
            def looks(views: Iterable[OperationView]) -> Iterator[OperationView]:
                for view in views:
                    looked.append(view.name)
                    yield view

            return looks(await asked(since=since))

        monkeypatch.setattr(server.scheduler, "operations", operations)
        page = await server.page(page_size=10)
        page = await server.page(page_size=10, page_token=page.next_page_token)
        assert [each.name for each in page.operations] == names[10:20]
        assert len(looked) < 30

    async def test_a_filter_that_fits_nothing_lets_others_have_their_turn(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nativelink.services.operation_lists._AT_ONCE", 10)
        names = [await server.start(str(number)) for number in range(100)]
        for name in names[30:60]:
            server.scheduler.update(name, queued_at=31.0)
        async with Turns() as turns:
            assert await server.names("worker=nobody") == []
        assert turns.taken >= 10
        assert (
            await server.names("worker!=nobody") == names[:30] + sorted(names[30:60]) + names[60:]
        )

    async def test_a_long_page_lets_others_have_their_turn(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nativelink.services.operations._AT_ONCE", 10)
        names = [await server.start(str(number)) for number in range(100)]
        async with Turns() as turns:
            page = await server.page(page_size=100)
        assert turns.taken >= 9
        assert [each.name for each in page.operations] == names

    async def test_operations_of_one_moment_are_listed_by_name(self, server: Server) -> None:
        names = [await server.start(str(number)) for number in range(12)]
        for name in names:
            server.scheduler.update(name, queued_at=7.0)
        found: list[str] = []
        token = ""
        while True:
            page = await server.page(page_size=5, page_token=token)
            found += [each.name for each in page.operations]
            if not (token := page.next_page_token):
                break
        assert found == sorted(names)

    async def test_a_page_ends_before_it_is_too_long(self) -> None:
        server = Server(max_page_bytes=3000)
        for number in range(5):
            await server.start(str(number))
            server.scheduler.finish(b"\x2a\xff\x07" + b"x" * 1023)
        sizes = []
        token = ""
        while True:
            page = await server.page(page_token=token)
            sizes.append(len(page.operations))
            if not (token := page.next_page_token):
                break
        assert sizes == [2, 2, 1]

    @pytest.mark.parametrize(
        ("filter_", "found"),
        [
            ("", [0, 1, 2]),
            ("   ", [0, 1, 2]),
            ("stage=EXECUTING", [1]),
            ("stage = executing", [1]),
            ("stage!=QUEUED", [1, 2]),
            ("worker=w1 and stage=COMPLETED", [2]),
            ("worker=w1 AND worker=w2", []),
            ("invocation=build-1", [0, 2]),
            ('target="//a b:c"', [0]),
            ('target=""', [2]),
            ("mnemonic=CppLink", [1]),
            ("identity=me", [2]),
            ("operation=op-2", [1]),
        ],
    )
    async def test_a_filter_says_which(
        self, server: Server, filter_: str, found: list[int]
    ) -> None:
        names = [
            await server.start("x", tool_invocation_id="build-1", target_id="//a b:c"),
            await server.start("y", target_id="//y", action_mnemonic="CppLink"),
            await server.start("z", tool_invocation_id="build-1", identity="me"),
        ]
        server.scheduler.update(names[1], stage=ExecutionStage.EXECUTING, worker_id="w1")
        server.scheduler.update(
            names[2], stage=ExecutionStage.COMPLETED, worker_id="w1", response=b""
        )
        assert await server.names(filter_) == [names[each] for each in found]

    async def test_an_action_is_found_by_its_digest(self, server: Server) -> None:
        name, other = await server.start("x"), await server.start("y")
        digest = SHA256.digest_of(b"x")
        for text in (digest.hash, digest.hash.upper(), f"{digest.hash}/1", str(digest)):
            assert await server.names(f"action={text}") == [name]
            assert await server.names(f"action!={text}") == [other]
        assert await server.names(f"action={digest.hash}/2") == []

    @pytest.mark.parametrize(
        ("filter_", "text"),
        [
            ("stage", "field=value is expected"),
            ("stage=QUEUED,worker=x", "no stage 'QUEUED,WORKER=X'"),
            ("stage=QUEUED worker=x", "AND is expected"),
            ("stage=QUEUED AND ", "field=value is expected"),
            ('target="x', "field=value is expected"),
            ("colour=red", "no field 'colour'; fields: action, stage, worker"),
            ("stage=DONE", "stages: UNKNOWN, CACHE_CHECK"),
            ("worker=" + "x" * 5000, "4096 are allowed"),
        ],
    )
    async def test_a_filter_that_cannot_be_understood_is_refused(
        self, server: Server, filter_: str, text: str
    ) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.page(filter=filter_)
        assert raised.value.code is Code.INVALID_ARGUMENT
        assert text in raised.value.message

    @pytest.mark.parametrize(
        "fields",
        [
            {"page_size": -1},
            {"page_token": "x"},
            {"page_token": "eA=="},
            {"page_token": "eCB5"},
            {"page_token": "é"},
        ],
    )
    async def test_a_page_that_cannot_be_is_refused(
        self, server: Server, fields: dict[str, Any]
    ) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.page(**fields)
        assert raised.value.code is Code.INVALID_ARGUMENT
