"""Containers of Azure Blob Storage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from nativelink.core.errors import invalid_argument
from nativelink.core.retry import Retry
from nativelink.stores.cloud.bucket import Bucket
from nativelink.stores.cloud.client import ClientSettings

if TYPE_CHECKING:
    from obstore.store import (
        AzureConfig,
        AzureCredentialProvider,
        AzureSASToken,
        ClientConfig,
        RetryConfig,
    )

__all__ = ["AzureAddress", "azure_bucket"]


@dataclass(frozen=True, slots=True)
class AzureAddress:
    """Where a container is.

    Attributes:
        account: the storage account.
        container: in the account.
        endpoint: URL of the blob service; None: the account's public one.
        sas: a shared access signature, as the query of a URL.
        account_key: the account's key; None: what the environment offers (AZURE_ variables,
            workload identity, managed identity).
    """

    account: str
    container: str
    endpoint: str | None = None
    sas: str | None = None
    account_key: str | None = None

    @classmethod
    def of_sas_url(cls, account: str, url: str) -> AzureAddress:
        """The container that a URL with a shared access signature names.

        Raises:
            NativeLinkError: INVALID_ARGUMENT; the URL, being a secret, is not in its text.
        """
        parts = urlsplit(url)
        base, _, container = parts.path.rstrip("/").rpartition("/")
        if parts.scheme not in ("http", "https") or not container or not parts.query:
            raise invalid_argument(
                "sas_url is not possible: https://ACCOUNT.blob.core.windows.net/CONTAINER?QUERY "
                "is expected"
            )
        return cls(account, container, f"{parts.scheme}://{parts.netloc}{base}", parts.query)


def azure_bucket(
    address: AzureAddress,
    *,
    client: ClientSettings,
    retry: Retry,
    max_concurrent_requests: int = 0,
    max_retry_buffer_bytes: int = 5 * 1024 * 1024,
) -> Bucket:
    """A container of Azure Blob Storage.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for settings that cannot be.
    """
    from obstore.store import AzureStore

    config: AzureConfig = {"account_name": address.account, "disable_tagging": True}
    if address.endpoint is not None:
        config["endpoint"] = address.endpoint
    credentials: AzureCredentialProvider | None = None
    if (sas := address.sas) is not None:
        # As a setting it would come behind any AZURE_ variable with another credential.
        pairs = parse_qsl(sas, keep_blank_values=True)
        credentials = partial(_signature, pairs)
    if address.account_key is not None:
        config["account_key"] = address.account_key

    def opened(options: ClientConfig, retries: RetryConfig) -> AzureStore:
        return AzureStore(
            address.container,
            config=config,
            client_options=options,
            retry_config=retries,
            credential_provider=credentials,
        )

    objects, uploads = client.handles(address.container, opened, retry)
    return Bucket(
        objects,
        uploads=uploads,
        name=f"azure://{address.account}/{address.container}",
        retry=retry,
        max_concurrent_requests=max_concurrent_requests,
        max_retry_buffer_bytes=max_retry_buffer_bytes,
    )


def _signature(pairs: list[tuple[str, str]]) -> AzureSASToken:
    return {"sas_token": pairs, "expires_at": None}
