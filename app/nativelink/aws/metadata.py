"""EC2's instance metadata service, version 2: what a machine can learn about itself.

Each request needs a token that a PUT request gives (EC2 User Guide, "Use the Instance Metadata
Service"). A token is renewed at half of its life, and once more when the service refuses it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import aiohttp

from nativelink.core.clock import Clock
from nativelink.core.errors import unavailable

__all__ = ["InstanceMetadata", "open_metadata"]

_TOKEN_PATH: Final = "/latest/api/token"  # noqa: S105 - where tokens are got, not one
_TOKEN_S: Final = 21_600
_TIMEOUT_S: Final = 2.0
#: What we ask for has some hundred bytes.
_MAX_BYTES: Final = 16_384


class InstanceMetadata:
    """Asks the service.

    Args:
        base: URL, `http://169.254.169.254` on every EC2 machine.
        session: makes requests.
        clock: for the age of the token.
    """

    def __init__(self, base: str, session: aiohttp.ClientSession, *, clock: Clock) -> None:
        self._base = base.rstrip("/")
        self._session = session
        self._clock = clock
        self._token = ""
        self._renew_at = 0.0

    async def get(self, path: str) -> str | None:
        """The text at a path below `/latest/meta-data/`; None if there is none.

        Raises:
            NativeLinkError: UNAVAILABLE.
        """
        status, text = await self._ask(path, renew=self._clock.monotonic() >= self._renew_at)
        if status == HTTPStatus.UNAUTHORIZED:
            status, text = await self._ask(path, renew=True)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status != HTTPStatus.OK:
            raise unavailable(f"the instance metadata at {path} answered {status}")
        return text

    async def _ask(self, path: str, *, renew: bool) -> tuple[int, str]:
        try:
            if renew or not self._token:
                await self._renew()
            return await self._request(
                "GET",
                f"/latest/meta-data/{path}",
                {"X-aws-ec2-metadata-token": self._token},
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise unavailable(
                f"no instance metadata at {path}: {type(error).__name__}: {error}"
            ) from error

    async def _renew(self) -> None:
        seconds = str(_TOKEN_S)
        status, token = await self._request(
            "PUT", _TOKEN_PATH, {"X-aws-ec2-metadata-token-ttl-seconds": seconds}
        )
        if status != HTTPStatus.OK or not token:
            raise unavailable(f"the instance metadata gave no token: {status}")
        self._token = token
        self._renew_at = self._clock.monotonic() + _TOKEN_S / 2

    async def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        async with self._session.request(
            method, self._base + path, headers=headers, allow_redirects=False
        ) as response:
            data = await response.content.read(_MAX_BYTES)
            return response.status, data.decode("utf-8")


@asynccontextmanager
async def open_metadata(base: str, clock: Clock) -> AsyncIterator[InstanceMetadata]:
    """The service at a URL, with connections that are closed at the end of the context."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    # Whatever proxy there is, it is not between a machine and its own metadata.
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        yield InstanceMetadata(base, session, clock=clock)
