"""What `cdktf synth` runs: one stack, of one region, into `cdktf.out`.

`REGION` names `infra/regions/NAME.yaml`, or is the path of such a file; `STACK` is `region` (or,
once per account and AWS region, `bootstrap`). With `NATIVELINK_LOCAL=http://127.0.0.1:5000` the
stack is made against an emulator there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.kit import Kit
from infra.local import LocalProfile
from infra.settings_load import find_region, load
from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["main", "synthesize"]


def synthesize(kit: Kit, stack: str, directory: Path) -> str:
    """Write one stack's Terraform below `directory`; gives the stack's name."""
    # Loads the provider's constructs, which takes ten seconds and more: not before the settings
    # are known to be valid.
    from infra._cdk import App
    from infra.stacks.bootstrap import BootstrapStack
    from infra.stacks.region import RegionStack

    directory.mkdir(parents=True, exist_ok=True)
    app = App(outdir=str(directory))
    match stack:
        case "region":
            name = kit.settings.name
            RegionStack(app, name, kit=kit)
        case "bootstrap":
            name = f"bootstrap-{kit.region}"
            BootstrapStack(app, name, kit=kit)
        case _:
            raise invalid_argument(f"STACK: no such stack; got {stack}; allowed: region, bootstrap")
    app.synth()
    return name


def main() -> int:
    """Synthesize what the environment asks for."""
    region = os.environ.get("REGION", "")
    if not region:
        print("REGION is not set; such as: REGION=team cdktf deploy", file=sys.stderr)
        return 2
    try:
        return _synthesize(region)
    except NativeLinkError as failure:
        print(failure.message, file=sys.stderr)
        return 1


def _synthesize(region: str) -> int:
    settings = load(find_region(region))
    endpoint = os.environ.get("NATIVELINK_LOCAL")
    local = None
    if endpoint:
        local = LocalProfile(
            endpoint=endpoint,
            redis=os.environ.get("NATIVELINK_LOCAL_REDIS", LocalProfile.redis),
            metadata=os.environ.get("NATIVELINK_LOCAL_METADATA", LocalProfile.metadata),
        )
    directory = Path(os.environ.get("CDKTF_OUTDIR", "cdktf.out"))
    synthesize(Kit(settings, local), os.environ.get("STACK", "region"), directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
