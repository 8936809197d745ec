"""Which requests are executed, as what, and which are refused, naming what is missing."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, MissingBlob, unavailable
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.protobuf import duration_pb2
from nativelink.scheduler.action import ActionKey, Origin
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import digest_message
from tests.services.execution.server import (
    BLAKE3,
    COMMAND,
    SHA256,
    Server,
    metadata_of,
    progress_of,
)

EMPTY = SHA256.digest_of(b"")


class TestWhatIsExecuted:
    async def test_an_action_reaches_the_scheduler_as_it_is_described(self, server: Server) -> None:
        platform = pb.Platform(
            properties=[
                pb.Platform.Property(name="os", value="linux"),
                pb.Platform.Property(name="cpu_count", value="2"),
            ]
        )
        digest = await server.action(
            timeout=duration_pb2.Duration(seconds=3, nanos=500_000_000),
            platform=platform,
            do_not_cache=True,
        )
        call = server.execute(
            digest, execution_policy=pb.ExecutionPolicy(priority=7), skip_cache_lookup=True
        )
        await call.states(1)
        (view,) = server.scheduler.views.values()
        action = view.action
        assert action.key == ActionKey("a/b", SHA256, digest)
        assert action.properties == (("cpu_count", "2"), ("os", "linux"))
        assert (action.priority, action.timeout_s) == (7, 3.5)
        assert action.skip_cache_lookup
        assert action.do_not_cache

    async def test_the_commands_platform_counts_where_the_action_has_none(
        self, server: Server
    ) -> None:
        command = pb.Command(
            arguments=["x"],
            platform=pb.Platform(properties=[pb.Platform.Property(name="os", value="mac")]),
        )
        call = server.execute(await server.action(command))
        await call.states(1)
        (view,) = server.scheduler.views.values()
        assert view.action.properties == (("os", "mac"),)
        assert view.action.timeout_s is None
        server.scheduler.finish(b"")

    async def test_who_asks_is_read_from_the_headers(self, server: Server) -> None:
        metadata = pb.RequestMetadata(
            tool_invocation_id="build", target_id="//a:b", action_mnemonic="CppCompile"
        )
        headers = [
            (
                b"build.bazel.remote.execution.v2.requestmetadata-bin",
                base64.b64encode(metadata.SerializeToString()).rstrip(b"="),
            ),
            (b"baggage", b"enduser.id=me"),
        ]
        call = server.execute(await server.action(), headers)
        (state,) = await call.states(1)
        (view,) = server.scheduler.views.values()
        assert view.action.origin == Origin("build", "//a:b", "CppCompile", "me")
        assert progress_of(state).tool_invocation_id == "build"
        server.scheduler.finish(b"")

    async def test_a_digest_function_reaches_the_scheduler(self, server: Server) -> None:
        action = pb.Action(
            command_digest=digest_message(await server.put(COMMAND, BLAKE3)),
            input_root_digest=digest_message(await server.put(b"", BLAKE3)),
        )
        digest = await server.put(action, BLAKE3)
        call = server.execute(digest, digest_function=BLAKE3)
        (state,) = await call.states(1)
        (view,) = server.scheduler.views.values()
        assert view.action.key.digest_function is BLAKE3
        assert metadata_of(state).digest_function == pb.DigestFunction.BLAKE3
        server.scheduler.finish(b"")


class TestWhatIsRefused:
    async def test_a_missing_action_is_named(self, server: Server) -> None:
        digest = SHA256.digest_of(b"an action")
        error = await server.refused(digest)
        assert error.code is Code.FAILED_PRECONDITION
        assert error.details == (MissingBlob(digest),)

    async def test_a_missing_blob_is_named_with_its_digest_function(self, server: Server) -> None:
        digest = BLAKE3.digest_of(b"an action")
        error = await server.refused(digest, digest_function=BLAKE3)
        assert error.details == (MissingBlob(digest, "blake3/"),)

    async def test_every_missing_blob_is_named_at_once(self, server: Server) -> None:
        command, root = SHA256.digest_of(b"command"), SHA256.digest_of(b"root")
        digest = await server.put(
            pb.Action(
                command_digest=digest_message(command), input_root_digest=digest_message(root)
            )
        )
        error = await server.refused(digest)
        assert error.code is Code.FAILED_PRECONDITION
        assert error.details == (MissingBlob(command), MissingBlob(root))
        await write_bytes(server.cas, command, COMMAND.SerializeToString())
        assert (await server.refused(digest)).details == (MissingBlob(root),)

    @pytest.mark.parametrize(
        ("action", "text"),
        [
            (b"\xff\xff\xff", "is no Action message"),
            (pb.Action(), "command_digest"),
            (
                pb.Action(
                    command_digest=digest_message(EMPTY),
                    input_root_digest=pb.Digest(hash="xyz", size_bytes=1),
                ),
                "input_root_digest",
            ),
            (
                pb.Action(
                    command_digest=digest_message(EMPTY), input_root_digest=digest_message(EMPTY)
                ),
                "has no arguments",
            ),
            (
                pb.Action(
                    command_digest=pb.Digest(hash="a" * 64, size_bytes=2**40),
                    input_root_digest=digest_message(EMPTY),
                ),
                "too large",
            ),
        ],
    )
    async def test_what_is_no_action_is_an_invalid_argument(
        self, server: Server, action: Any, text: str
    ) -> None:
        error = await server.refused(await server.put(action))
        assert error.code is Code.INVALID_ARGUMENT
        assert text in error.message

    async def test_what_is_no_command_is_an_invalid_argument(self, server: Server) -> None:
        error = await server.refused(await server.action(b"\xff\xff\xff"))
        assert error.code is Code.INVALID_ARGUMENT
        assert "is no Command message" in error.message

    async def test_a_negative_timeout_is_an_invalid_argument(self, server: Server) -> None:
        digest = await server.action(timeout=duration_pb2.Duration(seconds=-1))
        error = await server.refused(digest)
        assert error.code is Code.INVALID_ARGUMENT
        assert "-1" in error.message

    @pytest.mark.parametrize(
        "properties",
        [
            [pb.Platform.Property(name=str(number)) for number in range(257)],
            [pb.Platform.Property(name="x", value="y" * 40_000)] * 2,
        ],
        ids=["many", "long"],
    )
    async def test_a_huge_platform_is_an_invalid_argument(
        self, server: Server, properties: list[pb.Platform.Property]
    ) -> None:
        digest = await server.action(platform=pb.Platform(properties=properties))
        error = await server.refused(digest)
        assert error.code is Code.INVALID_ARGUMENT
        assert "platform properties" in error.message

    async def test_unknown_instances_and_digest_functions_are_refused(self, server: Server) -> None:
        digest = await server.action()
        assert (await server.refused(digest, instance_name="c")).code is Code.NOT_FOUND
        error = await server.refused(digest, digest_function=pb.DigestFunction.MD5)
        assert error.code is Code.INVALID_ARGUMENT
        error = await server.refused(Digest("nonsense", 1))
        assert error.code is Code.INVALID_ARGUMENT

    async def test_what_the_scheduler_refuses_ends_the_call(self, server: Server) -> None:
        server.scheduler.refusal = unavailable("the scheduler stops")
        assert (await server.refused(await server.action())).code is Code.UNAVAILABLE
