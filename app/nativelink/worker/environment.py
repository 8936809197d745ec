"""The environment of an action: what its command asks for, and what the worker adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from nativelink.core.errors import invalid_argument

__all__ = ["AdditionalVariable", "Fact", "FromProperty", "FromValue", "action_environment"]


class Fact(Enum):
    """Something that the worker knows about an action."""

    FROM_ENVIRONMENT = "from_environment"
    TIMEOUT_MILLIS = "timeout_millis"
    SIDE_CHANNEL_FILE = "side_channel_file"
    ACTION_DIRECTORY = "action_directory"


@dataclass(frozen=True, slots=True)
class FromProperty:
    """The value of a platform property of the action; empty if it has none."""

    name: str


@dataclass(frozen=True, slots=True)
class FromValue:
    """A fixed text."""

    value: str


AdditionalVariable: TypeAlias = Fact | FromProperty | FromValue


def action_environment(
    additional: Mapping[str, AdditionalVariable],
    own: Iterable[tuple[str, str]],
    *,
    properties: Mapping[str, str],
    worker_environment: Mapping[str, str],
    timeout_s: float,
    side_channel_file: Path,
    action_directory: Path,
) -> dict[str, str]:
    """All variables of an action, the worker's additions first, so that the action's own win.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a name that cannot be one.
    """
    environment: dict[str, str] = {}
    for name, source in additional.items():
        value: str
        match source:
            case FromProperty(name=wanted):
                value = properties.get(wanted, "")
            case FromValue(value=text):
                value = text
            case Fact.FROM_ENVIRONMENT:
                value = worker_environment.get(name, "")
            case Fact.TIMEOUT_MILLIS:
                value = str(round(timeout_s * 1000))
            case Fact.SIDE_CHANNEL_FILE:
                value = str(side_channel_file)
            case Fact.ACTION_DIRECTORY:
                value = str(action_directory)
        environment[name] = value
    for name, value in own:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise invalid_argument(
                f"environment variable {name[:100]!r}: a name is not empty, has no '=', and "
                "neither name nor value has a NUL byte"
            )
        environment[name] = value
    return environment
