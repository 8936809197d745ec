"""A whole region: from nothing to one that serves, and back to nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.settings import NoTls
from infra.settings_load import load
from scripts.region_local.agent import Agent, Happening
from scripts.region_local.cloud import Cloud
from scripts.region_local.deployed import Deployed
from scripts.region_local.front import Front
from scripts.region_local.lifecycle import Lifecycle
from scripts.region_local.network import FIRST, LAST, Network, replace_names
from scripts.region_local.services import ServiceError, admit, deploy, moto, outputs, redis
from scripts.region_local.settings import Settings

__all__ = ["FRONT_FILE", "Region", "claim", "open_region"]

FRONT_PORT: Final = 8070
#: Below a region's folder: where `make interrupt` finds it.
FRONT_FILE: Final = "front"
_INTERRUPTED_S: Final = 60.0


@dataclass(frozen=True)
class Region:
    """A region that runs.

    Attributes:
        agent: plays EC2.
        cloud: moto.
        endpoint: URL of moto.
        outputs: of the deployed stack, with addresses of this machine in place of names.
        started_at: monotonic seconds when there was nothing yet.
    """

    agent: Agent
    cloud: Cloud
    endpoint: str
    outputs: Mapping[str, str]
    started_at: float


def claim() -> tuple[Network, Front]:
    """The first network of this machine in which no other region is."""
    for number in range(FIRST, LAST, 2):
        network = Network(number)
        try:
            return network, Front(network.services, FRONT_PORT)
        except OSError:
            continue
    raise ServiceError("no address is free from 127.64.0.0 to 127.250.0.0")


@asynccontextmanager
async def open_region(
    file: Path, folder: Path, kept: Path, settings: Settings, say: Callable[[Happening], None]
) -> AsyncIterator[Region]:
    """A region that runs, deployed as its file says.

    Args:
        file: the region's settings.
        folder: for disks and logs; empty.
        kept: what is synthesized, which may be used again.
        settings: how this machine plays EC2.
        say: told of everything that happens.

    Raises:
        ServiceError: it cannot be played here, or cannot be deployed.
        NativeLinkError: its settings are wrong.
    """
    started_at = time.monotonic()
    known = load(file)
    if not isinstance(known.tls, NoTls):
        raise ServiceError(
            f"{file}: load balancers speak no TLS here; tls.mode is {known.tls.mode}; allowed: none"
        )

    def note(text: str) -> None:
        say(Happening(time.time(), text))

    async with AsyncExitStack() as lifetimes:
        network, front = claim()
        lifetimes.enter_context(front)
        here = network.services
        endpoint = lifetimes.enter_context(moto(here, known.account, folder))
        redis_address = lifetimes.enter_context(redis(here, folder))
        note(f"moto: {endpoint}, Redis: {redis_address}")
        stack = await deploy(file, known.name, endpoint, redis_address, kept / here, note)
        cloud = Cloud(endpoint, known.region)
        lifetimes.callback(cloud.close)
        cloud.forget_bucket_policies()
        for user, access in cloud.users():
            admit(here, user, access)
        deployed = await asyncio.to_thread(
            Deployed.read, cloud, network, known.account, known.region
        )
        lifecycle = Lifecycle(time.monotonic)
        agent = Agent(cloud, deployed, network, settings, lifecycle, front.url, folder, say)
        front.serve(endpoint, cloud, lifecycle)
        loop = asyncio.get_running_loop()

        def interrupt(named: str) -> str:
            asked = asyncio.run_coroutine_threadsafe(agent.interrupt(named), loop)
            return asked.result(_INTERRUPTED_S)

        front.interrupt = interrupt
        found_by = folder / FRONT_FILE
        found_by.write_text(front.url, encoding="utf-8")
        # Another region may have the address later.
        lifetimes.callback(found_by.unlink)
        found = await outputs(stack)
        said = {
            name: replace_names(str(each["value"]), deployed.names)
            for name, each in json.loads(found).items()
        }
        async with asyncio.TaskGroup() as group:
            playing = group.create_task(agent.run())
            try:
                await agent.wait_until_it_serves()
                yield Region(agent, cloud, endpoint, said, started_at)
            finally:
                playing.cancel()
