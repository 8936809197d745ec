"""What a worker offers: its platform properties, those that programs tell included."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from nativelink.config.specs_workers import FromValue as FromValueSpec
from nativelink.config.specs_workers import LocalWorkerSpec, PropertyValues, WorkerProperty
from nativelink.core.errors import Code, NativeLinkError, context, invalid_argument
from nativelink.stores.disk import DiskLane
from nativelink.worker.scripts import run_script

__all__ = ["offered_properties"]

_QUERY_TIMEOUT_S: Final = 60.0


async def offered_properties(
    spec: LocalWorkerSpec, lane: DiskLane, environ: Mapping[str, str]
) -> list[tuple[str, str]]:
    """What the worker offers; several values of a property stand one after the other."""
    found: list[tuple[str, str]] = []
    for name, source in spec.platform_properties.items():
        found.extend((name, value) for value in await _values(name, source, spec, lane, environ))
    return found


async def _values(
    name: str,
    source: WorkerProperty,
    spec: LocalWorkerSpec,
    lane: DiskLane,
    environ: Mapping[str, str],
) -> Sequence[str]:
    if isinstance(source, PropertyValues):
        return source.values
    environment = {
        key: variable.value if isinstance(variable, FromValueSpec) else environ.get(key, "")
        for key, variable in spec.additional_environment.items()
        if isinstance(variable, FromValueSpec) or variable == "from_environment"
    }
    with context(f"platform_properties/{name}/query_cmd"):
        arguments = shlex.split(source.query_cmd)
        if not arguments:
            raise invalid_argument("there is no program in it")
        said = await lane.run(
            lambda: run_script(arguments, environment, timeout_s=_QUERY_TIMEOUT_S)
        )
        if said.exit_code:
            raise NativeLinkError(
                Code.FAILED_PRECONDITION,
                f"{arguments[0]!r} exited with {said.exit_code}: {said.stderr.strip()[-500:]}",
            )
    return [line.strip() for line in said.stdout.splitlines() if line.strip()]
