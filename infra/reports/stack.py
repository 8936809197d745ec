"""A synthesized stack, with names and ARNs in place of Terraform's references."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

__all__ = ["Resource", "Synthesized"]

_REFERENCE: Final = re.compile(r"\$\{(\w+)\.([\w-]+)\.(\w+)\}")


@dataclass(frozen=True)
class Resource:
    """A resource of a stack.

    Attributes:
        type: Terraform's, such as `aws_s3_bucket`.
        name: in the JSON.
        body: its arguments.
    """

    type: str
    name: str
    body: dict[str, Any]

    @property
    def address(self) -> str:
        """As Terraform names it."""
        return f"{self.type}.{self.name}"

    @property
    def path(self) -> str:
        """Where it is in the tree of constructs, without the stack's name."""
        whole: str = self.body.get("//", {}).get("metadata", {}).get("path", self.name)
        return whole.partition("/")[2]


@dataclass(frozen=True)
class Synthesized:
    """A stack.

    Args:
        path: of its `cdk.tf.json`.
        account: whose ARNs are written.
        region: likewise.
    """

    path: Path
    account: str
    region: str

    @cached_property
    def json(self) -> dict[str, Any]:
        """What Terraform reads."""
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return found

    @property
    def resources(self) -> Iterator[Resource]:
        """Every resource, in the order of the file."""
        for kind, named in self.json["resource"].items():
            for name, body in named.items():
                yield Resource(kind, name, body)

    def of(self, kind: str) -> list[Resource]:
        """Those of a type."""
        return [each for each in self.resources if each.type == kind]

    def referred(self, reference: str) -> Resource | None:
        """What a reference such as `${aws_s3_bucket.x.id}` points at; None if it is none."""
        match = _REFERENCE.fullmatch(reference)
        if match is None or match[2] not in self.json["resource"].get(match[1], {}):
            return None
        return Resource(match[1], match[2], self.json["resource"][match[1]][match[2]])

    def resolved(self, text: str) -> str:
        """A text with ARNs and names in place of references to them."""
        return _REFERENCE.sub(lambda found: self._value(found[0], found[3]), text)

    def _value(self, reference: str, attribute: str) -> str:
        resource = self.referred(reference)
        if resource is None:
            return reference
        return (
            self._arn(resource)
            if attribute == "arn"
            else str(resource.body.get("name") or resource.body.get("bucket") or resource.name)
        )

    def _arn(self, resource: Resource) -> str:
        body = resource.body
        here = f"{self.region}:{self.account}"
        match resource.type:
            case "aws_s3_bucket":
                return f"arn:aws:s3:::{body['bucket']}"
            case "aws_kms_key":
                # AWS chooses the id; the name says which key it is.
                return f"arn:aws:kms:{here}:key/{body['tags']['Name']}"
            case "aws_sqs_queue":
                return f"arn:aws:sqs:{here}:{body['name']}"
            case "aws_secretsmanager_secret":
                return f"arn:aws:secretsmanager:{here}:secret:{body['name']}"
            case "aws_cloudwatch_log_group":
                return f"arn:aws:logs:{here}:log-group:{body['name']}"
            case _:
                return f"{resource.type}.{resource.name}"
