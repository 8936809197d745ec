"""Specs of object stores to buckets and stores over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nativelink.compose.channels import retry_of
from nativelink.config.specs_cloud import (
    AwsSpec,
    AzureSpec,
    CloudObjectSpec,
    GcsSpec,
    ObjectStoreSpec,
    OciSpec,
    OntapS3Spec,
    R2Spec,
)
from nativelink.core.clock import Clock
from nativelink.core.errors import Code, NativeLinkError, failed_precondition, invalid_argument
from nativelink.stores.cloud.bucket import Bucket
from nativelink.stores.cloud.client import ClientSettings
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore, CloudStatistics
from nativelink.telemetry.meter import Observation, Registry
from nativelink.telemetry.metrics import STORE_REFRESHES, STORE_REQUEST_IO, STORE_REQUESTS

if TYPE_CHECKING:
    from nativelink.stores.cloud.aws import S3Address

__all__ = ["REMEMBERED_OBJECTS", "object_store", "observe_requests", "remembered_s"]

#: How long an object that was found is taken to be there. What deletes objects is a lifecycle
#: rule or a person, and a read that misses one makes it forgotten at once.
_REMEMBERED_S: Final = 600
#: So many of them are known at a time: about 250 MB of memory at most.
REMEMBERED_OBJECTS: Final = 1_000_000


def remembered_s(spec: ObjectStoreSpec) -> int:
    """Seconds for which presence is remembered: well below the age at which objects expire."""
    expires_s = spec.consider_expired_after_s
    return min(_REMEMBERED_S, expires_s // 4) if expires_s else _REMEMBERED_S


async def object_store(spec: CloudObjectSpec | OntapS3Spec, clock: Clock) -> CloudObjectStore:
    """A store over the bucket of a spec, which was looked at; the caller enters and leaves it.

    Raises:
        NativeLinkError: the bucket cannot be used, and why. A provider that is merely unavailable
            now is no reason not to start.
    """
    expires_s = spec.consider_expired_after_s
    if expires_s and spec.refresh_after_s >= expires_s:
        raise invalid_argument(
            f"refresh_after_s is {spec.refresh_after_s}: it must be below consider_expired_after_s "
            f"({expires_s}), or objects expire before they are refreshed"
        )
    parts = {}
    if isinstance(spec, GcsSpec):
        parts["min_part_bytes"] = spec.resumable_chunk_size
    store = CloudObjectStore(
        _bucket(spec, clock),
        keys=Keys(spec.key_prefix or "", google=isinstance(spec, GcsSpec)),
        clock=clock,
        consider_expired_after_s=expires_s,
        refresh_after_s=spec.refresh_after_s,
        max_concurrent_parts=spec.multipart_max_concurrent_uploads,
        **parts,
    )
    try:
        await store.check()
    except NativeLinkError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
    return store


def observe_requests(
    registry: Registry, path: str, statistics: Callable[[], CloudStatistics]
) -> None:
    """Let the figures of a store be seen under its place in the configuration."""

    def requests() -> Iterator[Observation]:
        for (operation, result), count in statistics().requests.items():
            yield (path, operation, result), count

    def transferred() -> Iterator[Observation]:
        now = statistics()
        yield (path, "read"), now.read_bytes
        yield (path, "write"), now.written_bytes

    def refreshes() -> Iterator[Observation]:
        now = statistics()
        yield (path, "ok"), now.refreshed
        yield (path, "failed"), now.refreshes_failed

    registry.observe(STORE_REQUESTS, requests)
    registry.observe(STORE_REQUEST_IO, transferred)
    registry.observe(STORE_REFRESHES, refreshes)


def _bucket(spec: CloudObjectSpec | OntapS3Spec, clock: Clock) -> Bucket:
    match spec:
        case AwsSpec():
            return _amazon(spec, _aws_address(spec), clock)
        case R2Spec():
            from nativelink.stores.cloud.aws import S3Address

            endpoint = f"https://{spec.account_id}.r2.cloudflarestorage.com"
            return _amazon(spec, S3Address(spec.bucket, "auto", endpoint), clock)
        case OciSpec():
            from nativelink.stores.cloud.aws import S3Address

            endpoint = (
                f"https://{spec.namespace}.compat.objectstorage.{spec.region}.oci.customer-oci.com"
            )
            return _amazon(spec, S3Address(spec.bucket, spec.region, endpoint), clock)
        case OntapS3Spec():
            from nativelink.stores.cloud.aws import S3Address

            if not spec.endpoint.startswith("https://") and not spec.insecure_allow_http:
                raise invalid_argument(f"endpoint {spec.endpoint!r}: ONTAP is spoken to by https")
            return _amazon(spec, S3Address(spec.bucket, spec.vserver_name, spec.endpoint), clock)
        case GcsSpec():
            return _google(spec)
        case AzureSpec():
            return _azure(spec)


def _client(spec: ObjectStoreSpec, endpoint: str | None = None) -> ClientSettings:
    """Settings of the connections.

    Args:
        spec: of the bucket.
        endpoint: what the environment says the provider's address is. Who sets one without TLS, as
            for an emulator on the same machine, means it; a file must say `insecure_allow_http`.
    """
    allow_http = spec.insecure_allow_http or (endpoint or "").startswith("http://")
    if isinstance(spec, GcsSpec):
        return ClientSettings(
            allow_http=allow_http,
            disable_http2=spec.disable_http2,
            connect_timeout_s=spec.connection_timeout_s,
            read_timeout_s=spec.read_timeout_s,
        )
    roots = None
    if isinstance(spec, OntapS3Spec) and spec.root_certificates is not None:
        try:
            roots = Path(spec.root_certificates).read_bytes()
        except OSError as error:
            raise failed_precondition(f"{error.filename}: {error.strerror}") from error
    return ClientSettings(
        allow_http=allow_http,
        disable_http2=spec.disable_http2,
        root_certificates=roots,
    )


def _aws_address(spec: AwsSpec) -> S3Address:
    """Where Amazon's bucket is, or who stands in for Amazon."""
    from nativelink.stores.cloud.aws import S3Address

    endpoint = spec.endpoint or _aws_endpoint()
    # Amazon wants the bucket in the host's name, where no certificate covers names with dots.
    virtual = spec.virtual_hosted_style or (endpoint is None and "." not in spec.bucket)
    return S3Address(spec.bucket, spec.region, endpoint, virtual)


def _aws_endpoint() -> str | None:
    """Where the environment says that S3 is."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _amazon(
    spec: AwsSpec | R2Spec | OciSpec | OntapS3Spec, address: S3Address, clock: Clock
) -> Bucket:
    from nativelink.stores.cloud.aws import BotoCredentials, StaticCredentials, s3_bucket

    credentials: BotoCredentials | StaticCredentials
    if isinstance(spec, R2Spec | OciSpec) and spec.access_key_id and spec.secret_access_key:
        credentials = StaticCredentials(spec.access_key_id, spec.secret_access_key)
    else:
        credentials = BotoCredentials(clock)
    named = isinstance(spec, AwsSpec) and not spec.endpoint
    return s3_bucket(
        address,
        credentials=credentials,
        client=_client(spec, _aws_endpoint() if named else None),
        retry=retry_of(spec.retry),
        max_concurrent_requests=spec.max_concurrent_requests,
        max_retry_buffer_bytes=spec.max_retry_buffer_per_request,
    )


def _google(spec: GcsSpec) -> Bucket:
    from nativelink.stores.cloud.gcs import gcs_bucket, has_credentials

    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS_JSON")
    anonymous = key is None and not has_credentials()
    if anonymous and spec.authentication_required:
        raise failed_precondition(
            "authentication_required is set and no Google credentials were found: looked at "
            "GOOGLE_APPLICATION_CREDENTIALS_JSON, GOOGLE_APPLICATION_CREDENTIALS, gcloud's "
            "application default credentials, and the machine itself"
        )
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    return gcs_bucket(
        spec.bucket,
        client=_client(spec, endpoint),
        retry=retry_of(spec.retry),
        service_account_key=key,
        anonymous=anonymous,
        endpoint=endpoint,
        max_concurrent_requests=spec.max_concurrent_requests,
        max_retry_buffer_bytes=spec.max_retry_buffer_per_request,
    )


def _azure(spec: AzureSpec) -> Bucket:
    from nativelink.stores.cloud.azure import AzureAddress, azure_bucket

    if spec.sas_url is not None:
        address = AzureAddress.of_sas_url(spec.account_name, spec.sas_url)
    else:
        address = AzureAddress(spec.account_name, spec.container, spec.endpoint)
    return azure_bucket(
        address,
        client=_client(spec),
        retry=retry_of(spec.retry),
        max_concurrent_requests=spec.max_concurrent_requests,
        max_retry_buffer_bytes=spec.max_retry_buffer_per_request,
    )
