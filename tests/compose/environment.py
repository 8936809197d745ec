"""What parts of a process are made with, when a test makes them."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nativelink.compose.environment import Environment
from nativelink.core.digest import DigestFunction
from nativelink.services.status import HealthRegistry
from nativelink.telemetry.meter import Registry
from nativelink.testing.fakes import FakeClock

__all__ = ["environment_of"]


def environment_of(lifetimes: AsyncExitStack) -> Environment:
    """What is made in it lives as long as `lifetimes`."""
    clock = FakeClock()
    return Environment(
        version="1.2.3",
        clock=clock,
        registry=Registry(),
        measured=True,
        health=HealthRegistry(clock=clock, observe=lambda _result: None),
        lifetimes=lifetimes,
        tracer=None,
        digest_function=DigestFunction.SHA256,
        health_check_bytes=1024,
    )
