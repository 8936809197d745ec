"""The environment of a machine's program: user data, and what the machine finds out by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.capacity import processors
from infra.environment import DERIVED, Role
from infra.user_data import environment_in
from scripts.region_local.cloud import CREDENTIALS, Instance
from scripts.region_local.network import replace_names
from scripts.region_local.settings import Settings

__all__ = ["Place", "environment_of", "metadata_of"]

_EVERYWHERE: Final = "0.0.0.0"
_SECRET: Final = "NATIVELINK_SECRET_"
_MEMORY_KB_OF_SLOT: Final = 2 * 1024 * 1024
#: As the image's boot script names the files of the secret with certificates.
_CERTIFICATES: Final[Mapping[str, str]] = {
    "cert": "tls.crt",
    "key": "tls.key",
    "ca": "ca.crt",
    "client_ca": "client-ca.crt",
    "crl": "clients.crl",
}


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


def environment_of(
    instance: Instance, place: Place, settings: Settings, secret: Callable[[str], str]
) -> dict[str, str]:
    """Every variable of the machine's program.

    Args:
        instance: with its user data.
        place: what is elsewhere than on EC2.
        settings: what is faster or smaller.
        secret: gives the text of a secret by its ARN. Files are written below the machine's disk.
    """
    told = environment_in(instance.user_data)
    told = {name: replace_names(value, place.names) for name, value in told.items()}
    role = told["NATIVELINK_ROLE"]
    for name, value in told.items():
        if name.endswith("_ADDRESS") and value.startswith(_EVERYWHERE):
            told[name] = place.address + value.removeprefix(_EVERYWHERE)
    told |= {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL_AUTO_SCALING": place.autoscaling,
        "NATIVELINK_IMDS": place.metadata,
        "NATIVELINK_TLS_DIRECTORY": str(place.folder / "run"),
    }
    if role == "scheduler":
        told["NATIVELINK_OPERATOR_ADDRESS"] = f"{place.address}:50070"
    if role == "worker":
        if settings.idle_s is not None:
            told["NATIVELINK_IDLE_AFTER_S"] = f"{settings.idle_s:g}"
        margin_s = settings.scaled(float(told["NATIVELINK_NOTICE_MARGIN_S"]))
        told["NATIVELINK_NOTICE_MARGIN_S"] = f"{margin_s:g}"
    return told | _derived(instance, place, settings, told) | _secrets(told, place, secret)


def _derived(
    instance: Instance, place: Place, settings: Settings, told: Mapping[str, str]
) -> dict[str, str]:
    """What the image's boot script writes to its file."""
    count = processors(instance.kind)
    jobs = int(told.get("NATIVELINK_SLOTS", "0")) or count
    found = {
        "NATIVELINK_INSTANCE_ID": instance.id,
        "NATIVELINK_INSTANCE_TYPE": instance.kind,
        "NATIVELINK_AVAILABILITY_ZONE": instance.zone,
        "NATIVELINK_DATA": str(place.folder / "data"),
        "NATIVELINK_MEMORY": str(settings.memory_bytes),
        "NATIVELINK_DISK": str(settings.disk_bytes),
        "NATIVELINK_JOBS": str(jobs),
        "NATIVELINK_CPU_COUNT": str(count),
        "NATIVELINK_MEMORY_KB": str(count * _MEMORY_KB_OF_SLOT),
    }
    role: Role = told["NATIVELINK_ROLE"]  # type: ignore[assignment]
    return {each.name: found[each.name] for each in DERIVED if role in each.roles}


def _secrets(told: Mapping[str, str], place: Place, secret: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, arn in told.items():
        if not name.startswith(_SECRET) or not arn:
            continue
        if name == f"{_SECRET}TLS":
            folder = place.folder / "run"
            folder.mkdir(parents=True, exist_ok=True)
            for key, text in json.loads(secret(arn)).items():
                (folder / _CERTIFICATES[key]).write_text(text, encoding="utf-8")
        else:
            found[f"NATIVELINK_{name.removeprefix(_SECRET)}"] = secret(arn)
    return found


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
