"""Clients of AWS' services on our event loop, and their errors as ours.

aiobotocore signs, retries and renews credentials. Region, endpoint and credentials come from where
every AWS program takes them (AWS_REGION, AWS_ENDPOINT_URL, the instance's role).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from aiohttp import ClientError as HttpError
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from nativelink.core.errors import Code, NativeLinkError

__all__ = ["Clients", "aws_errors", "open_clients"]

_CONNECT_TIMEOUT_S: Final = 5.0
#: Longer than the 20 seconds that SQS holds a request for which it has no message.
_READ_TIMEOUT_S: Final = 30.0
_TRIES: Final = 3
#: What a service answers, by what it means to a caller. Everything else may be over soon.
_CODES: Final = {
    "ValidationError": Code.FAILED_PRECONDITION,
    "ScalingActivityInProgress": Code.UNAVAILABLE,
    "AccessDenied": Code.PERMISSION_DENIED,
    "AccessDeniedException": Code.PERMISSION_DENIED,
    "UnauthorizedOperation": Code.PERMISSION_DENIED,
    "ExpiredToken": Code.UNAUTHENTICATED,
    "InvalidClientTokenId": Code.UNAUTHENTICATED,
    "Throttling": Code.RESOURCE_EXHAUSTED,
    "ThrottlingException": Code.RESOURCE_EXHAUSTED,
    "AWS.SimpleQueueService.NonExistentQueue": Code.NOT_FOUND,
    "QueueDoesNotExist": Code.NOT_FOUND,
}


class Clients:
    """Makes each client once.

    Args:
        region: AWS region; empty leaves it to the environment.
        lifetimes: closes the clients.
    """

    def __init__(self, region: str, lifetimes: AsyncExitStack) -> None:
        self._region = region or None
        self._lifetimes = lifetimes
        self._session: AioSession = get_session()
        self._made: dict[str, Any] = {}

    async def client(self, service: str) -> Any:
        """The client of a service, such as `sqs`.

        Raises:
            NativeLinkError: it cannot be made, for instance as there is no region.
        """
        if service not in self._made:
            config = AioConfig(
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_READ_TIMEOUT_S,
                retries={"mode": "standard", "total_max_attempts": _TRIES},
            )
            with aws_errors(f"no client for {service}"):
                self._made[service] = await self._lifetimes.enter_async_context(
                    self._session.create_client(service, region_name=self._region, config=config)
                )
        return self._made[service]


@asynccontextmanager
async def open_clients(region: str) -> AsyncIterator[Clients]:
    """Clients that are closed at the end of the context."""
    async with AsyncExitStack() as lifetimes:
        yield Clients(region, lifetimes)


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Turn what AWS' libraries raise into NativeLinkErrors.

    Args:
        what: what failed, for people.

    Raises:
        NativeLinkError: FAILED_PRECONDITION for what is not possible now or any more (AWS'
            ValidationError), PERMISSION_DENIED, RESOURCE_EXHAUSTED for too many requests,
            otherwise UNAVAILABLE.
    """
    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        code = _CODES.get(str(told.get("Code", "")), Code.UNAVAILABLE)
        message = f"{what}: {told.get('Code')}: {told.get('Message')}"
        raise NativeLinkError(code, message) from error
    except (BotoCoreError, ResponseParserError, HttpError, OSError, TimeoutError) as error:
        raise NativeLinkError(
            Code.UNAVAILABLE, f"{what}: {type(error).__name__}: {error}"
        ) from error
