#!/usr/bin/env python3
"""Do an account's quotas suffice for a region? `scripts/preflight.py REGION` only reads.

Needs `servicequotas:GetServiceQuota` and `servicequotas:GetAWSDefaultServiceQuota`; without them it
prints what to look up. Exit code 1: a quota is too small.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "app"):
    sys.path.insert(0, str(folder))

import boto3  # noqa: E402 - the script may start anywhere
from botocore.config import Config  # noqa: E402
from botocore.exceptions import BotoCoreError, ClientError  # noqa: E402

from infra.preflight import Quota, examine  # noqa: E402
from infra.settings_load import find_region, load  # noqa: E402
from nativelink.core.errors import NativeLinkError  # noqa: E402


class Account:
    """Reads quotas; remembers why it could not.

    Args:
        region: AWS region.

    Attributes:
        trouble: what AWS said, once it refused.
    """

    def __init__(self, region: str) -> None:
        self.trouble: str | None = None
        config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
        self._client = boto3.client("service-quotas", region_name=region, config=config)

    def allowed(self, quota: Quota) -> float | None:
        """The account's own quota, else AWS' default; None if neither can be read."""
        if self.trouble is not None:
            return None
        for ask in (self._client.get_service_quota, self._client.get_aws_default_service_quota):
            try:
                answer = ask(ServiceCode=quota.service, QuotaCode=quota.code)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchResourceException":
                    self.trouble = str(error)
                    return None
            except BotoCoreError as error:
                self.trouble = str(error)
                return None
            else:
                return float(answer["Quota"]["Value"])
        return None


def main() -> int:
    """Compare and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("REGION", "")
    if not name:
        print("REGION is not set; such as: make preflight REGION=team", file=sys.stderr)
        return 2
    try:
        settings = load(find_region(name))
    except NativeLinkError as failure:
        print(failure.message, file=sys.stderr)
        return 2
    account = Account(settings.region)
    findings = list(examine(settings, account.allowed))
    for finding in findings:
        print(finding)
    if account.trouble is not None:
        print(
            f"\nQuotas could not be read: {account.trouble}\n"
            "Allow servicequotas:GetServiceQuota and servicequotas:GetAWSDefaultServiceQuota, or "
            "look the lines above up in the console under Service Quotas.",
            file=sys.stderr,
        )
    return int(not all(finding.enough for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
