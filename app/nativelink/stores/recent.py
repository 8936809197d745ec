"""Messages of actions that were read a moment ago, for who reads them next in this process.

The execution service reads and checks an action before it queues it, and a worker of the same
process would read the same bytes again as soon as it starts it.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import Message

from nativelink.core.digest import Digest

__all__ = ["RecentMessages"]

M = TypeVar("M", bound=Message)

#: Four megabytes in all. Of a longer queue the last ones are kept, and the first ones read again.
_MAX_MESSAGES: Final = 1024
_MAX_MESSAGE_BYTES: Final = 4096


class RecentMessages:
    """Parsed blobs, each for one reader. Nobody changes them."""

    def __init__(self) -> None:
        self._messages: dict[Digest, Message] = {}

    def keep(self, digest: Digest, message: Message) -> None:
        """Keep what a blob says, unless it is large."""
        if digest.size_bytes > _MAX_MESSAGE_BYTES:
            return
        messages = self._messages
        messages[digest] = message
        if len(messages) > _MAX_MESSAGES:
            del messages[next(iter(messages))]

    def take(self, digest: Digest, kind: type[M]) -> M | None:
        """What a blob says, if it is kept; the next one reads it again."""
        message = self._messages.pop(digest, None)
        return message if isinstance(message, kind) else None
