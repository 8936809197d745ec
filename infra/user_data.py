"""What a machine runs when it starts for the first time."""

from __future__ import annotations

import shlex

from infra.environment import ENVIRONMENT_FILE, Role

__all__ = ["environment_in", "script"]

_BEGIN = "<<'END-OF-ENVIRONMENT'\n"
_END = "END-OF-ENVIRONMENT\n"


def script(role: Role, environment: str) -> str:
    """Writes the environment file and starts the role's service; nothing else, nothing secret."""
    return f"""#!/bin/bash
set -euo pipefail
install -d -m 0755 {ENVIRONMENT_FILE.rpartition("/")[0]}
cat >{ENVIRONMENT_FILE} {_BEGIN}{environment}{_END}chmod 0644 {ENVIRONMENT_FILE}
systemctl enable --now nativelink@{role}.service
"""


def environment_in(script: str) -> dict[str, str]:
    """The variables that the file will have which a script of `script` writes.

    Raises:
        ValueError: the script writes no such file.
    """
    _, begin, rest = script.partition(_BEGIN)
    text, end, _ = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"user data writes no {ENVIRONMENT_FILE}: {script[:80]!r}")
    lines = (line.partition("=") for line in text.splitlines())
    return {name: "".join(shlex.split(value)) for name, _, value in lines}
