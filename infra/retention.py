"""How long objects live: S3's rules and the server's, derived from one setting.

S3 counts from an object's last write, not from its last use. So the server copies an object onto
itself when it is used and older than `refresh_after_s`, and takes one that is older than
`expired_after_s` for absent: it is uploaded again before S3 deletes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.settings import StorageProfile, StorageSettings

__all__ = ["Retention", "Transition", "of_ac", "of_cas"]

_DAY: Final = 86_400


@dataclass(frozen=True)
class Transition:
    """Days after which an object moves into a storage class."""

    days: int
    storage_class: str


@dataclass(frozen=True)
class Retention:
    """What becomes of the objects of one bucket.

    Attributes:
        expire_days: S3 deletes an object of this age.
        expired_after_s: the server takes one of this age, in seconds, for absent.
        refresh_after_s: the server renews one of this age, in seconds, when it is used.
        transitions: storage classes that S3 moves it to before.
    """

    expire_days: int
    transitions: tuple[Transition, ...]

    @property
    def expired_after_s(self) -> int:
        return (self.expire_days - max(1, self.expire_days // 36)) * _DAY

    @property
    def refresh_after_s(self) -> int:
        return self.expire_days // 2 * _DAY


def of_cas(storage: StorageSettings) -> Retention:
    """Blobs and indexes."""
    return Retention(storage.cas_days, _transitions(storage))


def of_ac(storage: StorageSettings) -> Retention:
    """Action results: they go first, so that none outlives its blobs by much.

    They are small, and S3 leaves objects below 128 KiB where they are; no transitions.
    """
    return Retention(storage.ac_days, ())


def _transitions(storage: StorageSettings) -> tuple[Transition, ...]:
    match storage.profile:
        case StorageProfile.LIFECYCLE:
            return (
                Transition(storage.infrequent_after_days, "STANDARD_IA"),
                Transition(storage.archive_after_days, "GLACIER_IR"),
            )
        case StorageProfile.INTELLIGENT_TIERING:
            return (Transition(0, "INTELLIGENT_TIERING"),)
        case StorageProfile.SHORT:
            return ()
