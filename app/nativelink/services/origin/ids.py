"""Names of origin events: UUIDs version 6 that sort by time (RFC 9562 section 5.6).

Whoever reads events tells their kind from the name alone (NativeLink v1.6.6): of the node, which is
random for each process, the low half of the first byte is the group, and the second byte the number
of the event's field within its group.
"""

from __future__ import annotations

import secrets
from enum import IntEnum
from typing import Final
from uuid import UUID

from nativelink.core.clock import Clock

__all__ = ["EventIds", "Group"]

#: From 1582-10-15 to 1970-01-01 in units of 100 ns.
_EPOCH: Final = 0x01B2_1DD2_1381_4000
_UNITS_PER_S: Final = 10_000_000
_VERSION_AND_VARIANT: Final = 6 << 76 | 0b10 << 62
_GROUP_AND_FIELD: Final = 0x0FFF << 32


class Group(IntEnum):
    """What an event is."""

    NONE = 0
    REQUEST = 1
    RESPONSE = 2
    STREAM = 3


class EventIds:
    """Makes names; each is larger than the one before.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        # The bit that says that this is no network card's address.
        self._node = secrets.randbits(48) | 1 << 40
        self._sequence = secrets.randbits(14) << 48

    def new(self, group: Group = Group.NONE, field: int = 0) -> str:
        """The next name.

        Args:
            group: of the event; without, it is the name of a batch.
            field: number of the event's field within its group.
        """
        time = max(self._last + 1, int(self._clock.time() * _UNITS_PER_S) + _EPOCH)
        self._last = time
        node = self._node
        if group is not Group.NONE:
            node = node & ~_GROUP_AND_FIELD | group << 40 | field << 32
        bits = (time >> 12) << 80 | (time & 0xFFF) << 64
        return str(UUID(int=bits | _VERSION_AND_VARIANT | self._sequence | node))
