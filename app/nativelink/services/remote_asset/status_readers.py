"""Clients that do not look at the status in a response.

Bazel before 8.2 takes a FetchBlobResponse with an error in it for the empty blob: without a
checksum, an empty file is built with; with one, the error speaks of the empty file's hash; and
`--experimental_remote_downloader_local_fallback` does not fall back (bazelbuild/bazel#25244). An
error of the call is understood by every version.
"""

from __future__ import annotations

import re
from typing import Final

from nativelink.core.errors import Code
from nativelink.core.rpc import CallContext
from nativelink.services.request_metadata import request_metadata

__all__ = ["code_for_call", "reads_status"]

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})")
#: The first that reads the status.
_SINCE: Final = (8, 2)
#: These mean the same in a call's status; others would make Bazel ask again for what cannot get
#: better. It joins a download that takes longer than its call.
_KEPT: Final = frozenset({Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.DEADLINE_EXCEEDED})


def reads_status(call: CallContext) -> bool:
    """Whether a client looks at the status in a FetchBlobResponse, as the API demands."""
    metadata = request_metadata(call)
    if metadata is None or metadata.tool_details.tool_name != "bazel":
        return True
    version = _VERSION.match(metadata.tool_details.tool_version)
    return version is not None and (int(version[1]), int(version[2])) >= _SINCE


def code_for_call(code: Code) -> Code:
    """What the call fails with where the status in its response would not be read."""
    return code if code in _KEPT else Code.FAILED_PRECONDITION
