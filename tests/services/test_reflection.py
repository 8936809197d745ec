from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2
from nativelink.proto.grpc.reflection.v1 import reflection_pb2 as v1
from nativelink.proto.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from nativelink.services.reflection import ReflectionService
from nativelink.testing.calls import Caller, FakeMessageSource

REAPI = "build.bazel.remote.execution.v2"
CAS = f"{REAPI}.ContentAddressableStorage"
EXECUTION_PROTO = remote_execution_pb2.DESCRIPTOR.name


async def ask(module: ModuleType, *requests: dict[str, Any]) -> list[Any]:
    """The answers to the requests of one stream."""
    methods = ReflectionService([CAS]).methods()
    (method,) = [m for m in methods if f".{module.DESCRIPTOR.package.split('.')[-1]}." in m.path]
    source = FakeMessageSource(*(module.ServerReflectionRequest(**fields) for fields in requests))
    answers = await Caller([method]).bidirectional(
        "ServerReflectionInfo", source, module.ServerReflectionResponse
    )
    assert [answer.original_request for answer in answers] == [
        module.ServerReflectionRequest(**fields) for fields in requests
    ]
    return answers


def files_of(answer: Any) -> list[FileDescriptorProto]:
    return [
        FileDescriptorProto.FromString(raw)
        for raw in answer.file_descriptor_response.file_descriptor_proto
    ]


@pytest.mark.parametrize("module", [v1, v1alpha])
class TestEitherVersion:
    async def test_the_services_are_listed(self, module: ModuleType) -> None:
        (answer,) = await ask(module, {"list_services": "*", "host": "h"})
        assert answer.valid_host == "h"
        assert [service.name for service in answer.list_services_response.service] == [
            CAS,
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]

    @pytest.mark.parametrize(
        "question",
        [
            {"file_containing_symbol": CAS},
            {"file_containing_symbol": f"{CAS}.FindMissingBlobs"},
            {"file_containing_symbol": f"{REAPI}.Digest"},
            {"file_containing_symbol": f"{REAPI}.Digest.hash"},
            {"file_by_filename": EXECUTION_PROTO},
        ],
    )
    async def test_a_file_comes_with_all_that_it_needs(
        self, module: ModuleType, question: dict[str, str]
    ) -> None:
        (answer,) = await ask(module, question)
        files = files_of(answer)
        assert files[0].name == EXECUTION_PROTO
        assert len({file.name for file in files}) == len(files)
        # What came can be put together again, by someone who knows nothing else.
        pool = DescriptorPool()
        by_name = {file.name: file for file in files}

        def add(name: str) -> None:
            file = by_name.pop(name, None)
            if file is not None:
                for dependency in file.dependency:
                    add(dependency)
                pool.Add(file)

        add(EXECUTION_PROTO)
        assert not by_name
        assert "FindMissingBlobs" in pool.FindServiceByName(CAS).methods_by_name

    async def test_no_dependency_is_sent_twice_on_a_stream(self, module: ModuleType) -> None:
        question = {"file_by_filename": EXECUTION_PROTO}
        first, second = await ask(module, question, question)
        assert len(files_of(first)) > 5
        assert [file.name for file in files_of(second)] == [EXECUTION_PROTO]

    @pytest.mark.parametrize(
        ("question", "code"),
        [
            ({"file_containing_symbol": "no.such.Thing"}, Code.NOT_FOUND),
            ({"file_containing_symbol": f"{CAS}.NoSuchMethod"}, Code.NOT_FOUND),
            ({"file_containing_symbol": ""}, Code.NOT_FOUND),
            ({"file_by_filename": "no/such.proto"}, Code.NOT_FOUND),
            ({"all_extension_numbers_of_type": "no.such.Thing"}, Code.NOT_FOUND),
            (
                {"file_containing_extension": {"containing_type": f"{REAPI}.Digest"}},
                Code.NOT_FOUND,
            ),
            ({}, Code.INVALID_ARGUMENT),
        ],
    )
    async def test_what_is_not_there_is_an_error_and_the_stream_goes_on(
        self, module: ModuleType, question: dict[str, Any], code: Code
    ) -> None:
        error, answer = await ask(module, question, {"list_services": ""})
        assert error.error_response.error_code == code
        assert answer.list_services_response.service

    async def test_no_type_has_extensions(self, module: ModuleType) -> None:
        (answer,) = await ask(module, {"all_extension_numbers_of_type": f"{REAPI}.Digest"})
        numbers = answer.all_extension_numbers_response
        assert (numbers.base_type_name, list(numbers.extension_number)) == (f"{REAPI}.Digest", [])


async def test_garbage_is_an_invalid_argument() -> None:
    method = ReflectionService([]).methods()[0]
    with pytest.raises(NativeLinkError) as raised:
        await Caller([method]).bidirectional(
            "ServerReflectionInfo", FakeMessageSource(b"\xff"), v1.ServerReflectionResponse
        )
    assert raised.value.code is Code.INVALID_ARGUMENT
