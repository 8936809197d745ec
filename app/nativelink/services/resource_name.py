"""Names of blobs in ByteStream (REAPI v2, ContentAddressableStorage).

`[{instance}/][uploads/{uuid}/](blobs|compressed-blobs/{compressor})/[{function}/]{hash}/{size}
[/{metadata}]`. An instance name may contain slashes, and even the words `blobs` and `uploads`, so
names are read from the right: the right-most `blobs` after which everything fits counts.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["ResourceName", "parse_resource_name"]

#: Longer than any real name: instance, UUID, hash and some metadata.
_MAX_LENGTH: Final = 4096
_IDENTITY: Final = "identity"
_FUNCTIONS: Final = {function.token: function for function in DigestFunction}

_NAME: Final = re.compile(
    r"(?:(?P<front>.*)/)?(?:blobs|compressed-blobs/(?P<compressor>[^/]+))"
    r"/(?:(?P<function>[a-z][a-z0-9]*)/)?(?P<hash>[0-9a-fA-F]{64})/(?P<size>[0-9]{1,19})"
    r"(?:/.*)?",
    re.DOTALL,
)
#: The same with any hash and size, to say what is wrong with them.
_SHAPE: Final = re.compile(
    r"(?:.*/)?(?:blobs|compressed-blobs/[^/]+)"
    r"/(?:[a-z][a-z0-9]*/)?(?P<hash>[^/]+)/(?P<size>-?[0-9]+)(?:/.*)?",
    re.DOTALL,
)
_UPLOADS: Final = "uploads"


class ResourceName(NamedTuple):
    """A blob's name in ByteStream, taken apart.

    Attributes:
        instance: instance name, may be empty.
        uuid: the upload's name as the client chose it; empty in names of reads.
        compressor: `identity`, or how the bytes on the wire are compressed.
        function: None if the name does not say.
        digest: of the plain blob.
    """

    instance: str
    uuid: str
    compressor: str
    function: DigestFunction | None
    digest: Digest

    @property
    def compressed(self) -> bool:
        """Whether the bytes on the wire are not the blob's own."""
        return self.compressor != _IDENTITY


def parse_resource_name(name: str) -> ResourceName:
    """Take a resource name apart.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, saying what does not fit.
    """
    match = _NAME.fullmatch(name) if len(name) <= _MAX_LENGTH else None
    if match is None:
        raise _malformed(name)
    front, compressor, token, hash_, size = match.groups()
    function = None
    if token is not None:
        function = _FUNCTIONS.get(token)
        if function is None:
            raise invalid_argument(
                f"digest function {token!r} is not supported; {' and '.join(_FUNCTIONS)} are"
            )
    instance, uuid = front or "", ""
    parts = instance.rsplit("/", 2)
    if len(parts) > 1 and parts[-2] == _UPLOADS:
        uuid = parts[-1]
        instance = parts[0] if len(parts) > 2 else ""
        if not uuid:
            raise invalid_argument(f"resource name {_shown(name)} has an empty upload UUID")
    return ResourceName(
        instance.removeprefix("/"),
        uuid,
        compressor or _IDENTITY,
        function,
        Digest.parse(hash_, int(size)),
    )


def _malformed(name: str) -> NativeLinkError:
    if len(name) > _MAX_LENGTH:
        return invalid_argument(
            f"a resource name of {len(name)} characters is too long; {_MAX_LENGTH} are allowed"
        )
    shape = _SHAPE.fullmatch(name)
    if shape is not None:
        return invalid_argument(
            f"resource name {_shown(name)} has a malformed digest: 64 hexadecimal digits and a "
            f"size of 0 to 2^63-1 bytes are expected, not {shape['hash'][:80]!r} and "
            f"{shape['size'][:30]}"
        )
    return invalid_argument(
        f"malformed resource name {_shown(name)}: "
        "'{instance}/blobs/{hash}/{size}' is read and "
        "'{instance}/uploads/{uuid}/blobs/{hash}/{size}' is written"
    )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 300 else name[:300] + "...")
