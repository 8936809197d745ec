"""How obstore's HTTP client is set up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from nativelink.core.errors import invalid_argument
from nativelink.core.retry import Retry
from nativelink.stores.cloud.errors import FAILURES

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["ClientSettings"]

_S = TypeVar("_S")

#: obstore signs a request once for all its tries, and signatures are good for 15 minutes; it
#: advises to stay below 5.
_MAX_RETRYING: Final = timedelta(minutes=4)
_NO_RETRIES: Final = timedelta(seconds=0)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Of the connections to a provider.

    Attributes:
        allow_http: also without TLS.
        disable_http2: only HTTP/1.1.
        connect_timeout_s: until an attempt to connect is given up.
        read_timeout_s: that an answer may make no progress.
        request_timeout_s: that a request with its answer may take; one part of an upload, or one
            piece of a read, which is a few MiB.
        root_certificates: authorities in PEM that may vouch for the endpoint, besides the
            system's.
    """

    allow_http: bool = False
    disable_http2: bool = False
    connect_timeout_s: float = 15
    read_timeout_s: float = 30
    request_timeout_s: float = 120
    root_certificates: bytes | None = None

    def options(self) -> ClientConfig:
        """As obstore wants them."""
        options: ClientConfig = {
            "allow_http": self.allow_http,
            "http1_only": self.disable_http2,
            "connect_timeout": timedelta(seconds=self.connect_timeout_s),
            "read_timeout": timedelta(seconds=self.read_timeout_s),
            "timeout": timedelta(seconds=self.request_timeout_s),
            "user_agent": "nativelink",
        }
        if self.root_certificates is not None:
            options["root_certificate"] = self.root_certificates
        return options

    def retries(self, retry: Retry | None) -> RetryConfig:
        """Tries that obstore makes by itself.

        Args:
            retry: None: none, as ours are counted and paused by `core.retry`. Parts of an upload
                are obstore's: its pauses begin at the same length and double as well.
        """
        if retry is None or not retry.max_retries:
            return {"max_retries": 0, "retry_timeout": _NO_RETRIES}
        return {
            "max_retries": retry.max_retries,
            "retry_timeout": _MAX_RETRYING,
            "backoff": {
                "init_backoff": timedelta(seconds=retry.delay_s * 2),
                "max_backoff": timedelta(seconds=retry.pause_s(retry.max_retries)),
                "base": 2,
            },
        }

    def handles(
        self, bucket: str, make: Callable[[ClientConfig, RetryConfig], _S], retry: Retry
    ) -> tuple[_S, _S]:
        """Two of a bucket: for requests, which we try again, and for uploads, as obstore does.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for what obstore finds wrong with settings.
        """
        options = self.options()
        try:
            return make(options, self.retries(None)), make(options, self.retries(retry))
        except FAILURES as error:
            text = str(error).partition("\n\nDebug source")[0]
            raise invalid_argument(f"bucket {bucket}: {text}") from error
