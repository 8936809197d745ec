"""Buckets of Google Cloud Storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry
from nativelink.stores.cloud.bucket import Bucket
from nativelink.stores.cloud.client import ClientSettings

if TYPE_CHECKING:
    from obstore.store import (
        ClientConfig,
        GCSConfig,
        GCSCredential,
        GCSCredentialProvider,
        RetryConfig,
    )

__all__ = ["gcs_bucket", "has_credentials"]

#: What the board of every Google machine says of itself.
_BOARD: Final = Path("/sys/class/dmi/id/product_name")


def has_credentials(environment: Mapping[str, str] = os.environ, board: Path = _BOARD) -> bool:
    """Whether there are application default credentials, without asking anybody for them."""
    if environment.get("GOOGLE_APPLICATION_CREDENTIALS") or environment.get("GCE_METADATA_HOST"):
        return True
    home = Path(environment.get("HOME", "/"))
    if (home / ".config/gcloud/application_default_credentials.json").exists():
        return True
    try:
        return board.read_text().startswith("Google")
    except OSError:
        return False


def gcs_bucket(
    bucket: str,
    *,
    client: ClientSettings,
    retry: Retry,
    service_account_key: str | None = None,
    anonymous: bool = False,
    endpoint: str | None = None,
    max_concurrent_requests: int = 0,
    max_retry_buffer_bytes: int = 5 * 1024 * 1024,
) -> Bucket:
    """A bucket of Google Cloud Storage.

    Args:
        bucket: its name.
        client: of the connections.
        retry: what is tried again.
        service_account_key: credentials as JSON; None: the application default ones.
        anonymous: send no credentials.
        endpoint: URL of the service; None: Google's.
        max_concurrent_requests: requests in flight; 0: the bucket's own bound.
        max_retry_buffer_bytes: larger bodies are not sent a second time.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for settings that cannot be; FAILED_PRECONDITION for
            credentials that cannot be read.
    """
    from obstore.store import GCSStore

    config: GCSConfig = {}
    if service_account_key is not None:
        config["service_account_key"] = service_account_key
    credentials: GCSCredentialProvider | None = None
    if anonymous:
        config["skip_signature"] = True
        # obstore asks for a token before it writes, also if it sends none.
        credentials = _no_token
    if endpoint is not None:
        config["base_url"] = endpoint

    def opened(options: ClientConfig, retries: RetryConfig) -> GCSStore:
        return GCSStore(
            bucket,
            config=config,
            client_options=options,
            retry_config=retries,
            credential_provider=credentials,
        )

    try:
        objects, uploads = client.handles(bucket, opened, retry)
    except NativeLinkError as error:
        if "credential" in error.message:
            error.code = Code.FAILED_PRECONDITION
        raise
    return Bucket(
        objects,
        uploads=uploads,
        name=f"gs://{bucket}",
        retry=retry,
        max_concurrent_requests=max_concurrent_requests,
        max_retry_buffer_bytes=max_retry_buffer_bytes,
    )


def _no_token() -> GCSCredential:
    return {"token": "", "expires_at": None}
