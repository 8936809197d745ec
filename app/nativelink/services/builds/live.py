"""The summary of a build whose events are coming in, saved every now and then."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.errors import NativeLinkError
from nativelink.proto.google.devtools.build.v1.publish_build_event_pb2 import (
    PublishBuildToolEventStreamRequest,
)
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds.events import StreamName, stored_events
from nativelink.services.builds.history import BuildHistory
from nativelink.services.builds.summary import BuildSummary
from nativelink.stores.store import Store

__all__ = ["HEARTBEAT_S", "LiveBuild"]

_log: Final = logging.getLogger(__name__)

#: A summary is for people, who do not look more often; each one is a write.
_SAVE_INTERVAL_S: Final = 2.0
#: Of a build with hundreds of failures and tests, a summary has megabytes; of one that is made to
#: be large, ninety, which take a third of a second of the event loop.
_SAVED_BYTES_PER_S: Final = 1 << 20
#: A build that says nothing for a while is still known to be there.
HEARTBEAT_S: Final = 60.0


class LiveBuild:
    """Sums up one stream of events while it comes in.

    The events are the promise to the client, the summary is a convenience: a summary that cannot
    be saved is logged, and the stream goes on.

    Args:
        store: keeps the events.
        history: keeps the summaries.
        name: the stream.
        identity: who sends it.
        clock: the time.
    """

    def __init__(
        self, store: Store, history: BuildHistory, name: StreamName, identity: str, *, clock: Clock
    ) -> None:
        self._store = store
        self._history = history
        self._name = name
        self._identity = identity
        self._clock = clock
        self._summary = BuildSummary(pb.Build())
        self._changed = asyncio.Event()
        self._announced = False
        self._saved_bytes = 0

    async def resume(self, next_number: int) -> None:
        """Sum up what came over earlier connections: the events before `next_number`."""
        try:
            build = await self._history.load(self._name.invocation_id)
            if build is None or build.build_id != self._name.build_id:
                build = pb.Build()
            self._summary = BuildSummary(build)
            if build.last_sequence_number + 1 < next_number:
                first = build.last_sequence_number + 1
                async for request, identity in stored_events(self._store, self._name, first):
                    if request.ordered_build_event.sequence_number >= next_number:
                        break
                    self._summary.add(request, identity)
        except NativeLinkError as error:
            _log.warning("build %s: what was stored cannot be read: %s", self._name, error)

    def add(self, request: PublishBuildToolEventStreamRequest) -> None:
        """Sum up the next event, which is stored."""
        self._summary.add(request, self._identity)
        self._changed.set()

    async def keep(self) -> None:
        """Save what changes, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                if await self._is_overtaken():
                    return
            await self._save()
            await asyncio.sleep(max(_SAVE_INTERVAL_S, self._saved_bytes / _SAVED_BYTES_PER_S))

    async def end(self, *, broken: bool) -> None:
        """Save the summary as it is now, for the last time over this connection.

        Args:
            broken: whether it did not end by itself: then it may have been dead for long, and the
                client may have gone on elsewhere.
        """
        if not (broken and await self._is_overtaken()):
            await self._save()

    async def _save(self) -> None:
        build = self._summary.build
        self._changed.clear()
        if not build.invocation_id:
            return
        build.seen_time.FromMilliseconds(round(self._clock.time() * 1000))
        try:
            self._saved_bytes = await self._history.save(build)
            if not self._announced:
                await self._history.announce(build)
                self._announced = True
        except NativeLinkError as error:
            _log.warning("build %s: its summary cannot be saved: %s", self._name, error)

    async def _is_overtaken(self) -> bool:
        """Whether the client goes on over another server, and this connection is dead."""
        try:
            saved = await self._history.load(self._name.invocation_id)
        except NativeLinkError:
            return False
        ours = self._summary.build.last_sequence_number
        return saved is not None and saved.last_sequence_number > ours
