"""nativelink.v1.Builds: builds listed and shown, for `nativelink builds` and other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from nativelink.core.errors import invalid_argument
from nativelink.core.rpc import CallContext, MessageSink, Method
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds.events import StreamName, stored_events
from nativelink.services.builds.history import MAX_DAYS, BuildHistory
from nativelink.services.builds.summary import bazel_event
from nativelink.services.filters import Term, malformed, parse_terms
from nativelink.services.methods import method, service
from nativelink.stores.store import Store

__all__ = ["BuildsService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "Builds")
_PAGE_SIZE: Final = 100
_MAX_PAGE_SIZE: Final = 1000
_DAYS: Final = 7
_WHAT: Final = "builds"
#: Of the builds in one list: what clients take in a message is 4 MiB.
_MAX_LIST_BYTES: Final = 3 << 20
#: Characters of a piece of a log. A character has up to 4 bytes, a client's message 4 MiB.
_PIECE: Final = 512 * 1024

BuildFilter: TypeAlias = Callable[[pb.Build], bool]

_FIELDS: Final[Mapping[str, Callable[[pb.Build], Sequence[str]]]] = {
    "state": lambda build: [pb.Build.State.Name(build.state)],
    "user": lambda build: [build.user],
    "host": lambda build: [build.host],
    "identity": lambda build: [build.identity],
    "command": lambda build: [build.command],
    "pattern": lambda build: build.patterns,
    "workspace": lambda build: [build.workspace_directory],
    "project": lambda build: [build.project_id],
    "keyword": lambda build: build.keywords,
    "invocation": lambda build: [build.invocation_id],
    "build": lambda build: [build.build_id],
}


class BuildsService:
    """Shows what was published.

    Args:
        store: keeps the events.
        history: of the builds of that store.
    """

    def __init__(self, store: Store, history: BuildHistory) -> None:
        self._store = store
        self._history = history

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "ListBuilds", self._list_builds),
            method(_SERVICE, "GetBuild", self._get_build),
            method(_SERVICE, "ReadBuildLog", self._read_build_log),
        ]

    async def _list_builds(
        self, request: pb.ListBuildsRequest, call: CallContext
    ) -> pb.ListBuildsResponse:
        del call
        accept = _parse_filter(request.filter)
        count = request.page_size or _PAGE_SIZE
        if not 0 < count <= _MAX_PAGE_SIZE:
            raise invalid_argument(f"page_size {count}: 1 to {_MAX_PAGE_SIZE} are allowed")
        days = request.days or _DAYS
        if not 0 < days <= MAX_DAYS:
            raise invalid_argument(f"days {days}: 1 to {MAX_DAYS} are allowed")
        page = await self._history.latest(count, days=days, accept=accept)
        answer = pb.ListBuildsResponse(more=page.more)
        size = 0
        for build in page.builds:
            size += build.ByteSize()
            if size > _MAX_LIST_BYTES and answer.builds:
                answer.more = True
                break
            answer.builds.append(build)
        return answer

    async def _get_build(self, request: pb.GetBuildRequest, call: CallContext) -> pb.Build:
        del call
        return await self._history.find(request.invocation_id, request.build_id)

    async def _read_build_log(
        self, request: pb.ReadBuildLogRequest, call: CallContext, sink: MessageSink
    ) -> None:
        del call
        build = await self._history.find(request.invocation_id, request.build_id)
        name = StreamName(build.build_id, build.invocation_id)
        async for published, _ in stored_events(self._store, name, 1):
            event = bazel_event(published)
            if event is not None and event.WhichOneof("payload") == "progress":
                said = event.progress
                # What goes to stderr came before what goes to stdout (Bazel, message Progress).
                for piece in _pieces(said.stderr):
                    answer = pb.ReadBuildLogResponse(stderr=piece)
                    await sink.write(answer.SerializeToString())
                for piece in _pieces(said.stdout):
                    answer = pb.ReadBuildLogResponse(stdout=piece)
                    await sink.write(answer.SerializeToString())


def _pieces(text: str) -> Iterator[str]:
    return (text[begin : begin + _PIECE] for begin in range(0, len(text), _PIECE))


def _parse_filter(text: str) -> BuildFilter:
    """What a filter says of a build; an empty one takes all.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, telling where it cannot be understood.
    """
    terms = [_accepts(each) for each in parse_terms(text, _WHAT)]
    return lambda build: all(term(build) for term in terms)


def _accepts(term: Term) -> BuildFilter:
    name, equal, value = term
    read = _FIELDS.get(name)
    if read is None:
        raise malformed(_WHAT, f"there is no field {name[:40]!r}; fields: {', '.join(_FIELDS)}")
    if name == "state":
        value = value.upper()
        states = pb.Build.State.keys()
        if value not in states:
            raise malformed(_WHAT, f"there is no state {value[:40]!r}; states: {', '.join(states)}")
    return lambda build: (value in read(build)) is equal
