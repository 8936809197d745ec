"""Server reflection (grpc.reflection.v1 and v1alpha), for grpcurl and its like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from nativelink.core.errors import Code, invalid_argument
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.proto._pool import POOL
from nativelink.proto.grpc.reflection.v1 import reflection_pb2 as v1
from nativelink.proto.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from nativelink.services.methods import method, service

__all__ = ["ReflectionService"]

#: The two versions differ in their package alone.
_VERSIONS: Final = (v1, v1alpha)


class ReflectionService:
    """Describes the services that are served.

    Args:
        services: their full names; those of reflection itself are added.
    """

    def __init__(self, services: Iterable[str]) -> None:
        own = [service(module.DESCRIPTOR, "ServerReflection").full_name for module in _VERSIONS]
        self._services = sorted({*services, *own})

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(
                service(module.DESCRIPTOR, "ServerReflection"),
                "ServerReflectionInfo",
                _Conversation(module, self._services).run,
            )
            for module in _VERSIONS
        ]


class _Conversation:
    """Answers requests in one version's messages."""

    def __init__(self, module: ModuleType, services: Sequence[str]) -> None:
        # The generated module stands for both; so its messages cannot be typed here.
        self._pb: Any = module
        self._services = services

    async def run(self, source: MessageSource, _context: CallContext, sink: MessageSink) -> None:
        """Answer each request of one stream."""
        sent: set[str] = set()
        while (message := await source.read()) is not None:
            try:
                request = self._pb.ServerReflectionRequest.FromString(bytes(message))
            except DecodeError as error:
                raise invalid_argument(f"malformed ServerReflectionRequest: {error}") from error
            await sink.write(self._answer(request, sent).SerializeToString())

    def _answer(self, request: Any, sent: set[str]) -> Any:
        pb = self._pb
        kind = request.WhichOneof("message_request")
        answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            if kind == "list_services":
                answer.list_services_response.service.extend(
                    pb.ServiceResponse(name=name) for name in self._services
                )
            elif kind == "file_by_filename":
                _describe(answer, POOL.FindFileByName(request.file_by_filename), sent)
            elif kind == "file_containing_symbol":
                _describe(answer, _file_of(request.file_containing_symbol), sent)
            elif kind == "all_extension_numbers_of_type":
                # proto3 has no extensions: a type that exists has none.
                found = POOL.FindMessageTypeByName(request.all_extension_numbers_of_type)
                answer.all_extension_numbers_response.base_type_name = found.full_name
            elif kind == "file_containing_extension":
                raise KeyError(request.file_containing_extension.containing_type)
            else:
                answer.error_response.error_code = Code.INVALID_ARGUMENT
                answer.error_response.error_message = "the request asks for nothing"
        except KeyError as error:
            answer.error_response.error_code = Code.NOT_FOUND
            answer.error_response.error_message = f"not found: {error}"
        return answer


def _file_of(symbol: str) -> FileDescriptor:
    """The file that defines a symbol; a pool does not know those of methods by itself."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        owner, _, name = symbol.rpartition(".")
        return POOL.FindServiceByName(owner).methods_by_name[name].containing_service.file


def _describe(answer: Any, file: FileDescriptor, sent: set[str]) -> None:
    """Add a file, and those that it needs and that the stream did not carry yet."""
    pending = [file]
    files = answer.file_descriptor_response.file_descriptor_proto
    while pending:
        file = pending.pop()
        if file.name not in sent or not files:
            sent.add(file.name)
            files.append(file.serialized_pb)
            pending += file.dependencies
