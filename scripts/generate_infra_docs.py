#!/usr/bin/env python3
"""Write what documents say of the AWS stack, from the synthesized stack; `--check` compares.

    scripts/generate_infra_docs.py             synthesizes infra/examples/team.yaml and writes
    scripts/generate_infra_docs.py --check     says what is stale

Needs `.tools/infra` (`make docs` installs it); synthesizing takes half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "app"):
    sys.path.insert(0, str(folder))

from infra.kit import Kit  # noqa: E402 - the script may start anywhere
from infra.reports.alarms import alarms_of, alarms_table  # noqa: E402
from infra.reports.deployer import deployer_policies  # noqa: E402
from infra.reports.permissions import permissions_page  # noqa: E402
from infra.reports.picture import picture  # noqa: E402
from infra.reports.stack import Synthesized  # noqa: E402
from infra.settings_load import load  # noqa: E402

EXAMPLE: Final = ROOT / "infra/examples/team.yaml"
_PYTHON: Final = ROOT / ".tools/infra/bin/python"
_ALARMS: Final = ROOT / "docs/operate/alarms.md"
_BEGIN: Final = "<!-- alarms: written by scripts/generate_infra_docs.py -->"
_END: Final = "<!-- end of alarms -->"


def synthesize(folder: Path) -> Path:
    """The example's `cdk.tf.json`."""
    variables = {
        **{name: value for name, value in os.environ.items() if name != "NATIVELINK_LOCAL"},
        "REGION": str(EXAMPLE),
        "STACK": "region",
        "CDKTF_OUTDIR": str(folder),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'app'}",
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
    }
    subprocess.run([_PYTHON, "-m", "infra.main"], cwd=ROOT, env=variables, check=True)
    return next(folder.glob("stacks/*/cdk.tf.json"))


def documents(stack_file: Path) -> dict[Path, str]:
    """Every file, and what has to be in it."""
    settings = load(EXAMPLE)
    kit = Kit(settings)
    stack = Synthesized(stack_file, settings.account, settings.region)
    alarms = alarms_of(stack, settings.name, [pool.name for pool in settings.pools])
    before, _, rest = _ALARMS.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    found = {
        ROOT / "docs/generated/iam.md": permissions_page(stack),
        ROOT / "docs/region.svg": picture(stack, settings),
        _ALARMS: f"{before}{_BEGIN}\n\n{alarms_table(alarms)}\n\n{_END}{after}",
    }
    for number, policy in enumerate(deployer_policies(kit, stack), start=1):
        path = ROOT / f"docs/generated/deployer-policy-{number}.json"
        found[path] = json.dumps(policy, indent=2) + "\n"
    return found


def main(arguments: list[str]) -> int:
    """Write the files, or say which are stale."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        made = documents(synthesize(Path(folder)))
    stale = [
        path
        for path, text in made.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if arguments:
        for path in stale:
            print(
                f"{path.relative_to(ROOT)} is stale: run scripts/{Path(__file__).name}",
                file=sys.stderr,
            )
        return int(bool(stale))
    for path in stale:
        path.write_text(made[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
