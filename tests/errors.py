"""What a test is told of failures."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from nativelink.core.errors import NativeLinkError

__all__ = ["error_of"]


async def error_of(work: Awaitable[object]) -> NativeLinkError:
    """The error that some work ends with."""
    with pytest.raises(NativeLinkError) as caught:
        await work
    return caught.value
