"""The environment of a machine's program: what user data says, and what the machine finds out.

The machine finds it out by what does so in the image, `ami/boot/prepare.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

from ami.boot.prepare import prepare, read_environment
from infra.capacity import processors
from infra.user_data import environment_in
from scripts.region_local.cloud import CREDENTIALS
from scripts.region_local.network import replace_names
from scripts.region_local.resources import Instance
from scripts.region_local.settings import Settings

__all__ = ["Place", "boot", "environment_of", "metadata_of"]

_EVERYWHERE: Final = "0.0.0.0"
_MEMORY_KB_OF_PROCESSOR: Final = 2 * 1024 * 1024


@dataclass(frozen=True)
class Place:
    """Where one machine is on this one.

    Attributes:
        address: that it listens on.
        metadata: URL of its metadata service.
        autoscaling: URL of EC2 Auto Scaling.
        folder: its disk.
        names: addresses of hosts that it may be told of.
    """

    address: str
    metadata: str
    autoscaling: str
    folder: Path
    names: Mapping[str, str]

    @property
    def runtime(self) -> Path:
        """What /run/nativelink is on a real machine."""
        return self.folder / "run"


def environment_of(instance: Instance, place: Place, settings: Settings) -> dict[str, str]:
    """What user data writes, with addresses of this machine and a laptop's times.

    Args:
        instance: with its user data.
        place: what is elsewhere than on EC2.
        settings: what is faster.
    """
    told = environment_in(instance.user_data)
    told = {name: replace_names(value, place.names) for name, value in told.items()}
    for name, value in told.items():
        if name.endswith("_ADDRESS") and value.startswith(_EVERYWHERE):
            told[name] = place.address + value.removeprefix(_EVERYWHERE)
    told |= {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL_AUTO_SCALING": place.autoscaling,
        "NATIVELINK_IMDS": place.metadata,
        "NATIVELINK_TLS_DIRECTORY": str(place.runtime),
    }
    match told["NATIVELINK_ROLE"]:
        case "scheduler":
            told["NATIVELINK_OPERATOR_ADDRESS"] = f"{place.address}:50070"
        case "worker":
            if settings.idle_s is not None:
                told["NATIVELINK_IDLE_AFTER_S"] = str(ceil(settings.idle_s))
            margin_s = settings.scaled(float(told["NATIVELINK_NOTICE_MARGIN_S"]))
            told["NATIVELINK_NOTICE_MARGIN_S"] = str(ceil(margin_s))
        case _:
            pass
    return told


def boot(
    instance: Instance, place: Place, settings: Settings, secret: Callable[[str], str]
) -> dict[str, str]:
    """What a real machine does before its program starts; gives the program's whole environment.

    Args:
        instance, place, settings: as above.
        secret: gives the text of a secret by its ARN.
    """
    told = environment_of(instance, place, settings)
    data = place.folder / "data"
    data.mkdir(parents=True)
    prepare(told, runtime=place.runtime, data=data, fetch=lambda _, arn: secret(arn))
    for name in ("instance", "secrets"):
        told |= read_environment((place.runtime / name).read_text(encoding="utf-8"))
    return told | _sizes(instance, settings, told)


def _sizes(instance: Instance, settings: Settings, told: Mapping[str, str]) -> dict[str, str]:
    """As many processors as the instance would have, and no more of this machine than is sensible.

    Only of what the machine found out: roles differ.
    """
    count = processors(instance.kind)
    slots = int(told.get("NATIVELINK_SLOTS", "0"))
    found = {
        "NATIVELINK_MEMORY": settings.memory_bytes,
        "NATIVELINK_DISK": settings.disk_bytes,
        "NATIVELINK_DIRECTORY_CACHE": settings.disk_bytes // 4,
        "NATIVELINK_JOBS": slots or count,
        "NATIVELINK_CPU_COUNT": count,
        "NATIVELINK_MEMORY_KB": count * _MEMORY_KB_OF_PROCESSOR,
    }
    return {name: str(value) for name, value in found.items() if name in told}


def metadata_of(instance: Instance) -> dict[str, str]:
    """What the instance's metadata service says, by path."""
    return {
        "instance-id": instance.id,
        "instance-type": instance.kind,
        "instance-life-cycle": "spot",
        "local-ipv4": instance.address,
        "placement/availability-zone": instance.zone,
        "placement/region": instance.zone[:-1],
        "autoscaling/target-lifecycle-state": "InService",
    }
