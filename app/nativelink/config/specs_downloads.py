"""Downloads of assets: whom clients may have asked, and how much of it."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from nativelink.config.fields import (
    Flag,
    Items,
    Number,
    PathText,
    Seconds,
    Size,
    Spec,
    Text,
    Zero,
)
from nativelink.config.specs_common import ErrorCode, RetrySpec
from nativelink.core.hosts import parse_host_pattern

__all__ = ["DownloadsSpec"]

_GIB = 1024**3
_HOSTS = (
    '"HOST", "*.DOMAIN" or "*", with ":PORT" or ":*" behind it for others than the default ports; '
    "an IPv6 address stands in [ ]"
)
_NETWORKS = 'a network such as "10.0.0.0/8" or "fd00::/8", or a single address'


def _wrong(what: str, allowed: str) -> PydanticCustomError:
    return PydanticCustomError("value", "{what}", {"what": what, "allowed": allowed})


def _checked_hosts(text: str) -> str:
    try:
        parse_host_pattern(text)
    except ValueError as error:
        raise _wrong(str(error), _HOSTS) from None
    return text


def _checked_network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise _wrong(str(error), _NETWORKS) from None
    return text


_Hosts = Annotated[Text, AfterValidator(_checked_hosts)]
_Network = Annotated[Text, AfterValidator(_checked_network)]


class DownloadsSpec(Spec):
    """Lets clients have contents downloaded that nobody pushed, by HTTP GET.

    It is this server that asks, from where it stands in the network: name the hosts that clients
    need, and no more.
    """

    allowed_hosts: Annotated[tuple[_Hosts, ...], Items] = Field(
        default=(),
        description="Hosts that may be asked: names, `*.example.org` for all names below it, or "
        "`*` for all. Only default ports are meant unless `:PORT` or `:*` follows. Hosts that are "
        "redirected to count, too. Empty: no downloads.",
    )
    allowed_networks: Annotated[tuple[_Network, ...], Items] = Field(
        default=(),
        description="Networks whose addresses may be connected to although they are not of the "
        "public internet, such as `10.0.0.0/8` for a mirror of your own. Empty: public addresses "
        "only.",
    )
    insecure_allow_http: Flag = Field(
        default=False, description="Allow `http` URLs beside `https` ones."
    )
    ca_file: PathText | None = Field(
        default=None,
        description="PEM file with authorities that may vouch for origins beside those that the "
        "machine trusts.",
    )
    max_size_bytes: Annotated[Size, Zero(4 * _GIB)] = Field(
        default=4 * _GIB, description="Bytes of one download."
    )
    max_unpacked_bytes: Annotated[Size, Zero(16 * _GIB)] = Field(
        default=16 * _GIB,
        description="Bytes that an archive unpacks to, for clients that ask for a directory.",
    )
    max_unpacked_entries: Annotated[Number, Zero(200_000)] = Field(
        default=200_000,
        description="Files, symlinks and directories of such an archive. One costs about 300 bytes "
        "of memory while it is unpacked, if its name is short; the names of all have "
        "64 MiB at most.",
    )
    max_concurrent: Annotated[Number, Zero(32)] = Field(
        default=32,
        description="Downloads at the same time, of one host half of them, so that one that hangs "
        "holds up nobody else; further ones wait.",
    )
    timeout_s: Annotated[Seconds, Zero(600)] = Field(
        default=600,
        description="Seconds for one download with all its tries, and for unpacking an archive. A "
        "client may ask to wait for less; the work goes on without it.",
    )
    connect_timeout_s: Annotated[Seconds, Zero(10)] = Field(
        default=10, description="Seconds until an attempt to connect is given up."
    )
    idle_timeout_s: Annotated[Seconds, Zero(60)] = Field(
        default=60, description="Seconds without a byte until a download is tried again."
    )
    retry: RetrySpec = Field(
        default=RetrySpec(
            max_retries=3, delay=0.5, jitter=0.5, retry_on_errors=(ErrorCode.UNAVAILABLE,)
        ),
        description="Tries of what may go better later: connections that fail or break, and the "
        "statuses 408, 425, 429 and 5xx. Every URI is tried before any is tried again. Unset: "
        "three more tries.",
    )
    reuse_unverified_s: Seconds = Field(
        default=0,
        description="Seconds for which contents that were downloaded without a checksum are given "
        "to the next client without asking the origin. 0: never.",
    )
    temp_path: PathText | None = Field(
        default=None,
        description="Directory for downloads of more than 512 KiB until they are whole, and for "
        "archives and large files in them while they are unpacked; there must be room for "
        "`max_concurrent` downloads. Unset: the machine's own (`TMPDIR`).",
    )
