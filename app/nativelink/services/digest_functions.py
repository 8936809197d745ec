"""The digest function that a request names."""

from __future__ import annotations

from nativelink.core.digest import DigestFunction, digest_function
from nativelink.core.errors import invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

__all__ = ["ALLOWED", "use_digest_function"]

#: For error messages.
ALLOWED = " and ".join(function.name for function in DigestFunction)

_SUPPORTED = {function.value: function for function in DigestFunction}


def use_digest_function(value: int, default: DigestFunction) -> None:
    """Make a request's digest function that of the call under way.

    Every call runs in a context of its own, so nothing has to be set back.

    Args:
        value: from the request; 0 (UNKNOWN) stands for the default (REAPI v2, digest_function).
        default: the server's.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, naming what is supported.
    """
    if not value or value == default:
        return
    function = _SUPPORTED.get(value)
    if function is None:
        names = {number: name for name, number in pb.DigestFunction.Value.items()}
        raise invalid_argument(
            f"digest function {names.get(value, value)} is not supported; {ALLOWED} are"
        )
    digest_function.set(function)
