"""What a request asks for: URIs, and the qualifiers that narrow down what they mean.

Qualifiers are a set: neither their order nor a repetition says anything. Some only say how to get
at the contents (request headers); with a checksum they are no part of what is asked for, because
the checksum alone tells the contents. The names are those of the API's lexicon and of Bazel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from nativelink.core.errors import BadField, invalid_argument
from nativelink.services.remote_asset.integrity import Integrity, parse_integrity

__all__ = [
    "MAX_URIS",
    "Headers",
    "Qualifiers",
    "Query",
    "check_uris",
    "essential",
    "parse_qualifiers",
]

#: Name and value of each, as a request gives them.
Qualifiers: TypeAlias = tuple[tuple[str, str], ...]
#: Names and values of request headers.
Headers: TypeAlias = tuple[tuple[str, str], ...]

#: Request headers by name in lower case: each with all of its values.
_Fields: TypeAlias = dict[str, list[tuple[str, str]]]

#: Mirrors of one asset; Bazel's lists have a few.
MAX_URIS: Final = 64
_MAX_QUALIFIERS: Final = 256

_CHECKSUM: Final = "checksum.sri"
_TYPE: Final = "resource_type"
_DIRECTORY: Final = "directory"
_HEADER: Final = "http_header:"
_HEADER_OF_URI: Final = "http_header_url:"
#: Bazel before 7: `{"URI": {"NAME": "VALUE"}}`.
_BAZEL_HEADERS: Final = "bazel.auth_headers"
#: Tells contents of one URI apart, for caches: it is compared, and means nothing else.
_CANONICAL: Final = frozenset({"bazel.canonical_id", "canonical_id"})
#: What cannot be had by a GET.
_REPOSITORIES: Final = ("application/x-git", "application/x-hg", "application/x-svn")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
#: Those that say how the message itself travels, or ask for a part of the contents.
_NOT_FOR_CLIENTS: Final = frozenset(
    {
        "connection", "content-length", "expect", "host", "http2-settings", "if-match",
        "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "keep-alive",
        "proxy-authorization", "proxy-connection", "range", "te", "trailer", "transfer-encoding",
        "upgrade",
    }
)  # fmt: skip
#: Asked for by Bazel's own downloader; contents come as they are here.
_IGNORED: Final = frozenset({"accept-encoding"})


class QualifierMessage(Protocol):
    """The API's message Qualifier."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for, whether it is known or to be downloaded.

    Attributes:
        uris: any of them will do.
        given: the qualifiers in the order of the request.
        checksums: all of them must hold.
    """

    uris: tuple[str, ...]
    given: Qualifiers
    checksums: tuple[Integrity, ...]

    @property
    def essential(self) -> Qualifiers:
        """The qualifiers without those that only say how to get at the contents."""
        return essential(self.given)

    @property
    def directories(self) -> tuple[str, ...]:
        """The paths of the part of a directory that is wanted."""
        return tuple(dict.fromkeys(value for name, value in self.given if name == _DIRECTORY))

    @property
    def resource_types(self) -> tuple[str, ...]:
        """What the contents are said to be."""
        return tuple(value for name, value in self.given if name == _TYPE)

    @property
    def whole(self) -> Query:
        """The query for all of what it asks for a part of."""
        given = tuple(each for each in self.given if each[0] != _DIRECTORY)
        return Query(self.uris, given, self.checksums)

    @property
    def has_headers(self) -> bool:
        """Whether the contents may depend on who asks."""
        return any(_is_header(name) for name, _ in self.given)

    @property
    def identities(self) -> tuple[Qualifiers, ...]:
        """The qualifiers under which the contents may be known, the most exact first."""
        if self.checksums and self.has_headers:
            return self.given, self.essential
        return (self.given,)

    def headers(self) -> tuple[Headers, ...]:
        """The request headers for each URI.

        Raises:
            NativeLinkError: INVALID_ARGUMENT.
        """
        everywhere: _Fields = {}
        single: list[_Fields] = [{} for _ in self.uris]
        for name, value in self.given:
            if name.startswith(_HEADER):
                _add(everywhere, name.removeprefix(_HEADER), value)
            elif name.startswith(_HEADER_OF_URI):
                index, colon, header = name.removeprefix(_HEADER_OF_URI).partition(":")
                if not colon or not index.isascii() or not index.isdigit() or len(index) > 4:
                    raise invalid_argument(
                        f"qualifier {name[:100]!r}: http_header_url:<index of a URI>:<header> is "
                        "expected"
                    )
                if int(index) >= len(self.uris):
                    raise invalid_argument(
                        f"qualifier {name[:100]!r}: there are {len(self.uris)} URIs, counted from 0"
                    )
                _add(single[int(index)], header, value)
            elif name == _BAZEL_HEADERS:
                headers = _bazel_headers(value)
                for at, uri in enumerate(self.uris):
                    for header, text in headers.get(uri, {}).items():
                        _add(single[at], header, text)
        return tuple(
            tuple(each for fields in (everywhere | own).values() for each in fields)
            for own in single
        )

    def require_downloadable(self) -> None:
        """Return if contents that are downloaded would match all qualifiers.

        Raises:
            NativeLinkError: INVALID_ARGUMENT naming those that nobody here could vouch for
                (Fetch service: a server must not pass over what it does not know).
        """
        unknown: dict[str, None] = {}
        for name, value in self.given:
            if name == _TYPE:
                if value.lower().startswith(_REPOSITORIES):
                    unknown[f"{name}={value[:80]}"] = None
            elif name != _CHECKSUM and name not in _CANONICAL and not _is_header(name):
                unknown[name[:80]] = None
        if unknown:
            raise invalid_argument(
                "nothing was pushed with these qualifiers, and what is downloaded cannot be held "
                f"against {', '.join(map(repr, unknown))}; downloads know "
                "checksum.sri, http_header:*, http_header_url:*, bazel.canonical_id and "
                "resource_type",
                # As the API words it (FetchBlob, unsupported qualifiers).
                details=[
                    BadField("qualifiers.name", f'"{each}" not supported') for each in unknown
                ],
            )


def essential(qualifiers: Qualifiers) -> Qualifiers:
    """The qualifiers without those that only say how to get at the contents."""
    return tuple(each for each in qualifiers if not _is_header(each[0]))


def parse_qualifiers(uris: Sequence[str], qualifiers: Iterable[QualifierMessage]) -> Query:
    """The query of a request.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for none or too many URIs, a nameless qualifier, or a
            checksum that is none.
    """
    given = tuple((each.name, each.value) for each in qualifiers)
    if len(given) > _MAX_QUALIFIERS:
        raise invalid_argument(f"{len(given)} qualifiers were given, {_MAX_QUALIFIERS} are allowed")
    if any(not name for name, _ in given):
        raise invalid_argument("a qualifier has no name")
    checksums = tuple(
        dict.fromkeys(parse_integrity(value) for name, value in given if name == _CHECKSUM)
    )
    return Query(check_uris(uris), given, checksums)


def check_uris(uris: Sequence[str]) -> tuple[str, ...]:
    """The URIs of a request.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for none, an empty one, or too many.
    """
    if not 0 < len(uris) <= MAX_URIS:
        raise invalid_argument(f"{len(uris)} URIs were given; 1 to {MAX_URIS} are expected")
    if not all(uris):
        raise invalid_argument("a URI is empty")
    return tuple(uris)


def _is_header(name: str) -> bool:
    return name.startswith((_HEADER, _HEADER_OF_URI)) or name == _BAZEL_HEADERS


def _add(headers: _Fields, name: str, value: str) -> None:
    lower = name.lower()
    if lower in _IGNORED:
        return
    if not _TOKEN.fullmatch(name) or (value and not _VALUE.fullmatch(value)):
        # The value may be a password.
        raise invalid_argument(f"the request header {name[:100]!r}, or its value, is malformed")
    if lower in _NOT_FOR_CLIENTS:
        raise invalid_argument(f"the request header {name!r} cannot be chosen by clients")
    headers.setdefault(lower, []).append((name, value))


def _bazel_headers(text: str) -> Mapping[str, Mapping[str, str]]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict) and all(_is_map(each) for each in parsed.values()):
        return parsed
    raise invalid_argument(
        'the qualifier bazel.auth_headers is not of the form {"URI": {"HEADER": "VALUE"}}'
    )


def _is_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
