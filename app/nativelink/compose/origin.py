"""The origin events of a process: who tells of executions, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs import OriginEventsSpec
from nativelink.core.errors import context
from nativelink.scheduler.recorder import Recorder
from nativelink.scheduler.scheduler import Scheduler
from nativelink.telemetry.origin import observe_origin_events

if TYPE_CHECKING:
    from nativelink.services.origin.ids import EventIds
    from nativelink.services.origin.publisher import OriginEventPublisher

__all__ = ["OriginEventsNode", "open_origin_events"]


@dataclass(frozen=True, slots=True)
class OriginEventsNode:
    """Where origin events go.

    Attributes:
        publisher: writes them.
        ids: names them.
    """

    publisher: OriginEventPublisher
    ids: EventIds

    def recording(self, inner: Recorder) -> Recorder:
        """A recorder that publishes what it is told, and tells `inner`."""
        from nativelink.services.origin.recorder import OriginRecorder

        return OriginRecorder(inner, self.publisher, self.ids)

    def admitting(self, scheduler: Scheduler) -> Scheduler:
        """A scheduler that takes no more work while too many events wait."""
        from nativelink.scheduler.wrap.admission import AdmissionScheduler

        return AdmissionScheduler(scheduler, self.publisher.wait_for_room)


async def open_origin_events(
    spec: OriginEventsSpec | None, stores: StoreBuilder, env: Environment
) -> OriginEventsNode | None:
    """Begin to publish; None where the configuration does not ask for it.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an unknown store.
    """
    if spec is None:
        return None
    from nativelink.services.origin.ids import EventIds
    from nativelink.services.origin.publisher import OriginEventPublisher

    with context("experimental_origin_events/publisher"):
        store = (await stores.named(spec.publisher.store)).store
    ids = EventIds(env.clock)
    publisher = await env.lifetimes.enter_async_context(
        OriginEventPublisher(store, ids, max_queue_size=spec.max_event_queue_size)
    )
    observe_origin_events(env.registry, publisher)
    return OriginEventsNode(publisher, ids)
