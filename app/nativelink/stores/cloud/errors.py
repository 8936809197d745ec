"""What went wrong with a request to a provider, as one of our errors.

obstore has exception classes for a few outcomes and one for all others; the HTTP status and the
provider's error code stand only in its text. They are read here and nowhere else.
"""

from __future__ import annotations

import re
from typing import Final

from obstore.exceptions import BaseError

from nativelink.core.errors import Code, NativeLinkError

__all__ = ["FAILURES", "failure"]

#: What calls of obstore raise. A provider of credentials may raise anything that boto3 does.
FAILURES: Final = (BaseError, OSError, ValueError, RuntimeError)

_STATUS: Final = re.compile(r"status code: (\d{3})")
_PROVIDER_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
#: S3 and Google, Azure.
_BUCKET_MISSING: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
#: Queries may carry a signature, which is as good as a key.
_QUERY: Final = re.compile(r"(https?://[^\s?]*)\?\S*")
_MAX_TEXT: Final = 400
#: obstore's own complaint of a server that answers a range behind the end with all there is.
_BEHIND_THE_END: Final = "Wanted range starting at"

_CODES: Final = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.UNAVAILABLE,
    409: Code.ABORTED,
    412: Code.ABORTED,
    416: Code.OUT_OF_RANGE,
    429: Code.UNAVAILABLE,
}


def failure(error: Exception, doing: str) -> NativeLinkError:
    """An error of obstore as ours.

    NOT_FOUND is an object that is not there and nothing else; a bucket that is not there is
    FAILED_PRECONDITION, as is every request that the provider finds wrong. What the provider
    could not do now (5xx, 408, 429, connections that break, answers that do not come or come
    only in part) is UNAVAILABLE.

    Args:
        error: what was raised.
        doing: the request, such as `GET cas/...`.
    """
    text = str(error).partition("\n\nDebug source")[0]
    named = _PROVIDER_CODE.search(text)
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    if named is not None and named[1] in _BUCKET_MISSING:
        code = Code.FAILED_PRECONDITION
    elif isinstance(error, FileNotFoundError):
        code = Code.NOT_FOUND
    elif isinstance(error, ValueError):
        code = Code.INVALID_ARGUMENT
    elif _BEHIND_THE_END in text:
        code = Code.OUT_OF_RANGE
    elif status in _CODES:
        code = _CODES[status]
    elif 300 <= status < 500 or "Received redirect" in text:
        code = Code.FAILED_PRECONDITION
    else:
        code = Code.UNAVAILABLE
    line = " ".join(_QUERY.sub(r"\1", text).split())
    return NativeLinkError(code, f"{doing}: {line[:_MAX_TEXT]}")
