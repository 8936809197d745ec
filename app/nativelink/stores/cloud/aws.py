"""Buckets that speak Amazon's protocol: Amazon S3, ONTAP, R2, OCI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from nativelink.core.clock import Clock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry
from nativelink.stores.cloud.bucket import Bucket, Found
from nativelink.stores.cloud.client import ClientSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

__all__ = ["BotoCredentials", "S3Address", "StaticCredentials", "s3_bucket"]

#: How long credentials are taken as they are. botocore renews them when they have less than ten
#: minutes left, so whatever it gives us is good for longer than this.
_CREDENTIALS_S: Final = 240

#: S3 copies up to 5 GiB in one request (Amazon S3, CopyObject).
_MAX_COPY_BYTES: Final = 5 * 1024**3


@dataclass(frozen=True, slots=True)
class S3Address:
    """Where a bucket is.

    Attributes:
        bucket: its name.
        region: what requests are signed for.
        endpoint: URL of the service; None: Amazon's in the region.
        virtual_hosted_style: the bucket's name is part of the host's.
    """

    bucket: str
    region: str
    endpoint: str | None = None
    virtual_hosted_style: bool = False

    def base(self) -> str | None:
        """The endpoint, with the bucket in it if that is its place."""
        if self.endpoint is None or not self.virtual_hosted_style:
            return self.endpoint
        scheme, _, rest = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{rest}"


class StaticCredentials:
    """A key that the configuration holds.

    Args:
        access_key_id: its id.
        secret_access_key: its secret.
    """

    def __init__(self, access_key_id: str, secret_access_key: str) -> None:
        self._key = (access_key_id, secret_access_key)

    def __call__(self) -> S3Credential:
        access_key_id, secret = self._key
        return {"access_key_id": access_key_id, "secret_access_key": secret, "expires_at": None}

    def session(self) -> Any:
        """A boto3 session with them."""
        import boto3

        access_key_id, secret = self._key
        return boto3.Session(aws_access_key_id=access_key_id, aws_secret_access_key=secret)


class BotoCredentials:
    """What boto3 finds: environment, shared files, web identity, ECS, EC2's metadata (IMDSv2).

    It is called on a thread of obstore's, so that a renewal keeps nobody waiting who need not.

    Args:
        clock: the time.

    Raises:
        NativeLinkError: FAILED_PRECONDITION: it finds none.
    """

    def __init__(self, clock: Clock, *, session: Any = None) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError

        self._clock = clock
        try:
            self._session = session or boto3.Session()
            self._credentials = self._session.get_credentials()
        except BotoCoreError as error:
            raise NativeLinkError(
                Code.FAILED_PRECONDITION, f"no AWS credentials: {error}"
            ) from error
        if self._credentials is None:
            raise NativeLinkError(
                Code.FAILED_PRECONDITION,
                "no AWS credentials were found: looked at AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, AWS_PROFILE and the shared files, AWS_WEB_IDENTITY_TOKEN_"
                "FILE, the container's and the instance's metadata (boto3's chain)",
            )

    def __call__(self) -> S3Credential:
        frozen = self._credentials.get_frozen_credentials()
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": now + timedelta(seconds=_CREDENTIALS_S),
        }

    def session(self) -> Any:
        """The boto3 session."""
        return self._session


def s3_bucket(
    address: S3Address,
    *,
    credentials: BotoCredentials | StaticCredentials,
    client: ClientSettings,
    retry: Retry,
    max_concurrent_requests: int = 0,
    max_retry_buffer_bytes: int = 5 * 1024 * 1024,
) -> Bucket:
    """A bucket that speaks Amazon's protocol.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an address that is none.
    """
    from obstore.store import S3Store

    config: S3Config = {
        "region": address.region,
        "virtual_hosted_style_request": address.virtual_hosted_style,
        # Neither is everywhere, and neither is used.
        "disable_tagging": True,
    }
    if (base := address.base()) is not None:
        # The other key, `endpoint`, comes behind a variable AWS_ENDPOINT_URL_S3.
        config["aws_endpoint_url_s3"] = base

    def opened(options: ClientConfig, retries: RetryConfig) -> S3Store:
        return S3Store(
            address.bucket,
            config=config,
            client_options=options,
            retry_config=retries,
            credential_provider=credentials,
        )

    objects, uploads = client.handles(address.bucket, opened, retry)
    return Bucket(
        objects,
        uploads=uploads,
        name=f"s3://{address.bucket}" if address.endpoint is None else str(base),
        retry=retry,
        max_concurrent_requests=max_concurrent_requests,
        max_retry_buffer_bytes=max_retry_buffer_bytes,
        touch=_BotoTouch(address, credentials.session),
    )


class _BotoTouch:
    """Copies an object onto itself, which S3 does only if something of it is replaced.

    obstore cannot ask for that, so this is boto3, on a few threads of its own.
    """

    def __init__(self, address: S3Address, session: Callable[[], Any]) -> None:
        self._address = address
        self._session = session
        self._client: Any = None
        #: boto3 makes one client at a time, or fails (boto3, "Multithreading": sessions).
        self._making = Lock()
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, path: str, found: Found, /) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if self._threads is None:
            self._threads = ThreadPoolExecutor(4, "s3-refresh")
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._copy, path, found)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = Code.UNAVAILABLE if status >= 500 or status == 429 else Code.FAILED_PRECONDITION
            raise NativeLinkError(code, f"COPY {path}: {error}") from error
        except BotoCoreError as error:
            raise NativeLinkError(Code.UNAVAILABLE, f"COPY {path}: {error}") from error

    def _made_client(self) -> Any:
        """The client of all threads."""
        with self._making:
            if self._client is None:
                from botocore.config import Config

                style = "virtual" if self._address.virtual_hosted_style else "path"
                self._client = self._session().client(
                    "s3",
                    region_name=self._address.region,
                    endpoint_url=self._address.endpoint,
                    config=Config(
                        s3={"addressing_style": style},
                        retries={"total_max_attempts": 1},
                        connect_timeout=15,
                        read_timeout=60,
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
            return self._client

    def _copy(self, path: str, found: Found) -> None:
        client = self._made_client()
        source = {"Bucket": self._address.bucket, "Key": path}
        extra: dict[str, Any] = {"MetadataDirective": "REPLACE"}
        if found.size > _MAX_COPY_BYTES:
            # In parts, by boto3's own threads.
            client.copy(source, self._address.bucket, path, ExtraArgs=extra)
            return
        if found.e_tag is not None:
            # A value that was put meanwhile is young, and must stay.
            extra["CopySourceIfMatch"] = found.e_tag
        client.copy_object(CopySource=source, Bucket=self._address.bucket, Key=path, **extra)
