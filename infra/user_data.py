"""What a machine runs when it starts for the first time."""

from __future__ import annotations

from infra.environment import ENVIRONMENT_FILE, Role

__all__ = ["script"]


def script(role: Role, environment: str) -> str:
    """Writes the environment file and starts the role's service; nothing else, nothing secret."""
    return f"""#!/bin/bash
set -euo pipefail
install -d -m 0755 {ENVIRONMENT_FILE.rpartition("/")[0]}
cat >{ENVIRONMENT_FILE} <<'END-OF-ENVIRONMENT'
{environment}END-OF-ENVIRONMENT
chmod 0644 {ENVIRONMENT_FILE}
systemctl enable --now nativelink@{role}.service
"""
