"""A whole process: telemetry around stores around servers, closed in the opposite order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from nativelink.compose.available import ignored, unavailable
from nativelink.compose.environment import Environment
from nativelink.compose.servers import Listener, open_listeners
from nativelink.compose.stores import Leaf, StoreBuilder
from nativelink.compose.telemetry import open_telemetry, sdk_disabled
from nativelink.config.specs import Config, HashFunction
from nativelink.core.clock import Clock
from nativelink.core.digest import DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.status import HealthRegistry, HealthResult
from nativelink.telemetry.meter import Registry
from nativelink.telemetry.metrics import HEALTH_CHECKS

__all__ = ["System", "open_system"]

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class System:
    """What a configuration became.

    Attributes:
        listeners: open ports with what they serve, in the configuration's order.
        leaves: the stores that keep something.
        registry: the metrics of all of it.
    """

    listeners: tuple[Listener, ...]
    leaves: tuple[Leaf, ...]
    registry: Registry

    async def drain(self, grace_s: float) -> bool:
        """Take no new calls and let those under way finish.

        Args:
            grace_s: seconds until what is still under way is cancelled.

        Returns:
            Whether everything finished by itself.
        """
        return all(await run_all(each.drain(grace_s) for each in self.listeners))


@asynccontextmanager
async def open_system(
    config: Config, *, version: str, environ: Mapping[str, str], clock: Clock
) -> AsyncIterator[System]:
    """Open everything that a configuration asks for; leaving the context closes it.

    Servers sit inside, stores outside: servers are closed first, and stores see the end of every
    write that they acknowledged.

    Args:
        config: what to open.
        version: this program's, for telemetry and the pages.
        environ: the process' environment, for the OTEL_ variables.
        clock: the time.

    Raises:
        NativeLinkError: what cannot be opened, its message beginning with the config path.
    """
    if lines := list(unavailable(config)):
        raise NativeLinkError(Code.UNIMPLEMENTED, "\n".join(lines))
    for line in ignored(config):
        _log.warning("%s", line)
    registry = Registry()
    checks = registry.counter(HEALTH_CHECKS)

    def observe(result: HealthResult) -> None:
        checks.bind(result.namespace, result.health.value.lower()).add()

    try:
        async with AsyncExitStack() as lifetimes:
            yield await _open(config, registry, observe, lifetimes, version, environ, clock)
    except BaseExceptionGroup as group:
        # Task groups on the way wrap what they did not raise themselves.
        raised: BaseException = group
        while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
            raised = raised.exceptions[0]
        if isinstance(raised, NativeLinkError):
            raise raised from None
        raise


async def _open(
    config: Config,
    registry: Registry,
    observe: Callable[[HealthResult], None],
    lifetimes: AsyncExitStack,
    version: str,
    environ: Mapping[str, str],
    clock: Clock,
) -> System:
    function = config.global_.default_digest_hash_function or HashFunction.SHA256
    tracer = await lifetimes.enter_async_context(
        open_telemetry(config.global_, registry, version=version, environ=environ, clock=clock)
    )
    env = Environment(
        version=version,
        clock=clock,
        registry=registry,
        measured=not sdk_disabled(environ),
        health=HealthRegistry(clock=clock, observe=observe),
        lifetimes=lifetimes,
        tracer=tracer,
        digest_function=DigestFunction[function.name],
        health_check_bytes=config.global_.default_digest_size_health_check,
    )
    stores = StoreBuilder(config.stores, env)
    await stores.build_all()
    listeners = await open_listeners(config, stores, env)
    return System(tuple(listeners), tuple(stores.leaves), registry)
