"""What the Remote Asset services do, as metrics."""

from __future__ import annotations

from typing import Final

from nativelink.telemetry.meter import Definition, Kind, Registry

__all__ = ["ASSET_CATALOGUE", "AssetRecorder"]

ASSET_FETCHES: Final = Definition(
    "asset.fetches",
    Kind.COUNTER,
    "{fetch}",
    "Answers of the fetch service: the asset was known, downloaded or unpacked, or why not.",
    ("asset.kind", "asset.result"),
)
ASSET_DOWNLOAD_DURATION: Final = Definition(
    "asset.download.duration",
    Kind.HISTOGRAM,
    "s",
    "Time that downloads of assets took with all their tries, by how they ended.",
    ("asset.result",),
    (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0),
)
ASSET_DOWNLOAD_IO: Final = Definition(
    "asset.download.io",
    Kind.COUNTER,
    "By",
    "Bytes of assets that were downloaded and stored.",
)

ASSET_CATALOGUE: Final = (ASSET_FETCHES, ASSET_DOWNLOAD_DURATION, ASSET_DOWNLOAD_IO)


class AssetRecorder:
    """Hears how fetches and downloads of a process went (`services/remote_asset`)."""

    def __init__(self, registry: Registry) -> None:
        self._fetches = registry.counter(ASSET_FETCHES)
        self._duration = registry.histogram(ASSET_DOWNLOAD_DURATION)
        self._io = registry.counter(ASSET_DOWNLOAD_IO).bind()

    def fetched(self, kind: str, result: str, /) -> None:
        """One fetch was answered."""
        self._fetches.bind(kind, result).add()

    def ended(self, result: str, size_bytes: int, seconds: float, /) -> None:
        """One download is over."""
        self._duration.bind(result).record(seconds)
        self._io.add(size_bytes)
