"""MongoDB specs to stores."""

from __future__ import annotations

from nativelink.config.specs_remote import MongoSpec
from nativelink.core.errors import invalid_argument
from nativelink.stores.remote.mongo import MongoStore

__all__ = ["mongo_store"]


def mongo_store(spec: MongoSpec) -> MongoStore:
    """A store that connects when it is first needed; the caller enters and leaves it.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a connection string that is none, or a write concern
            that does not say how many servers.
    """
    return MongoStore(
        spec.connection_string,
        database=spec.database,
        collection=spec.cas_collection,
        key_prefix=spec.key_prefix or "",
        read_chunk_size=spec.read_chunk_size,
        connect_timeout_s=spec.connection_timeout_ms / 1000,
        command_timeout_s=spec.command_timeout_ms / 1000,
        write_concern=_write_concern(spec),
        max_requests=spec.max_requests,
    )


def _write_concern(spec: MongoSpec) -> dict[str, int | str | bool]:
    confirmed = spec.write_concern_w
    if confirmed is None:
        if spec.write_concern_j is not None or spec.write_concern_timeout_ms is not None:
            raise invalid_argument(
                "write_concern_j and write_concern_timeout_ms need write_concern_w"
            )
        return {}
    concern: dict[str, int | str | bool] = {
        "w": int(confirmed) if confirmed.isdecimal() else confirmed
    }
    if spec.write_concern_j is not None:
        concern["journal"] = spec.write_concern_j
    if spec.write_concern_timeout_ms is not None:
        concern["wTimeoutMS"] = spec.write_concern_timeout_ms
    return concern
