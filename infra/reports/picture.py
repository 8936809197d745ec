"""The picture of a region, as SVG: what there is and who may connect to whom, from the stack.

Places are chosen here; names, sizes, ports and arrows are the stack's. An arrow is a rule of a
security group: what has no arrow cannot connect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from infra.environment import STATUS_PORT
from infra.reports.stack import Resource, Synthesized
from infra.settings import RegionSettings

__all__ = ["connections", "picture"]

_WIDTH: Final = 1410
_HEIGHT: Final = 790
_STYLE: Final = """
text { font: 13px "Helvetica Neue", Arial, sans-serif; fill: #1b2631 }
.title { font-weight: 600; font-size: 14px }
.note { fill: #566573; font-size: 12px }
.port { font-size: 12px; fill: #1f5fa8 }
.box { fill: #ffffff; stroke: #34495e; stroke-width: 1.4 }
.balancer { fill: #eaf2fb; stroke: #1f5fa8 }
.store { fill: #fdf3e1; stroke: #b9770e }
.fleet { fill: #eaf6ea; stroke: #3d7a3c }
.service { fill: #f4f0f8; stroke: #76448a }
.network { fill: #fafbfc; stroke: #95a5a6; stroke-width: 1.4 }
.arrow { stroke: #1f5fa8; stroke-width: 1.5; fill: none; marker-end: url(#head) }
.tells { stroke: #76448a; stroke-width: 1.3; fill: none; stroke-dasharray: 5 4 }
.tells { marker-end: url(#told) }
"""


@dataclass(frozen=True)
class _Box:
    """A box with a title and lines below it."""

    x: int
    y: int
    width: int
    height: int
    kind: str
    title: str
    lines: Sequence[str]

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    def border(self, towards: tuple[float, float]) -> tuple[float, float]:
        """Where a line from the middle to a point leaves the box."""
        x, y = self.middle
        dx, dy = towards[0] - x, towards[1] - y
        scale = min(
            self.width / 2 / abs(dx) if dx else float("inf"),
            self.height / 2 / abs(dy) if dy else float("inf"),
        )
        return x + dx * scale, y + dy * scale

    def svg(self) -> Iterator[str]:
        yield (
            f'<rect class="box {self.kind}" x="{self.x}" y="{self.y}" width="{self.width}" '
            f'height="{self.height}" rx="6"/>'
        )
        x = self.x + 12
        yield f'<text class="title" x="{x}" y="{self.y + 22}">{escape(self.title)}</text>'
        for index, line in enumerate(self.lines):
            yield f'<text class="note" x="{x}" y="{self.y + 41 + 17 * index}">{escape(line)}</text>'


def _group_name(stack: Synthesized, reference: str) -> str:
    """`cas` of a reference to the security group `cas-firewall/group`."""
    group = stack.referred(reference)
    assert group is not None
    return str(group.body["name"]).rpartition(f"nl-{stack.json['//']['metadata']['stackName']}-")[2]


def connections(stack: Synthesized) -> dict[tuple[str, str], list[int]]:
    """Who may connect to whom, on which TCP ports; health checks and images' builder left out."""
    found: dict[tuple[str, str], list[int]] = {}
    for rule in stack.of("aws_vpc_security_group_egress_rule"):
        peer = rule.body.get("referenced_security_group_id")
        if peer is None or rule.body["from_port"] == STATUS_PORT:
            continue
        ends = _group_name(stack, rule.body["security_group_id"]), _group_name(stack, peer)
        found.setdefault(ends, []).append(rule.body["from_port"])
    return {ends: sorted(ports) for ends, ports in found.items()}


def _listeners(stack: Synthesized, balancer: str) -> list[int]:
    return sorted(
        each.body["port"]
        for each in stack.of("aws_lb_listener")
        if each.path.startswith(f"{balancer}/")
    )


def _machines(stack: Synthesized, role: str) -> str:
    group = next(
        each for each in stack.of("aws_autoscaling_group") if each.path == f"{role}-fleet/group"
    )
    template = stack.referred(group.body["launch_template"]["id"])
    assert template is not None
    return f"{group.body['desired_capacity']} x {template.body['instance_type']}, on demand"


def _pools(stack: Synthesized) -> Iterator[str]:
    for group in stack.of("aws_autoscaling_group"):
        policy = group.body.get("mixed_instances_policy")
        if policy is None:
            continue
        types = policy["launch_template"]["override"]
        share = policy["instances_distribution"]["on_demand_percentage_above_base_capacity"]
        spot = "on demand" if share == 100 else f"spot, {len(types)} types"
        name = group.body["name"].partition("-worker-")[2]
        yield f"{name}: {group.body['min_size']}-{group.body['max_size']} machines, {spot}"


def _zones(settings: RegionSettings) -> int:
    return len(settings.network.zone_names) or settings.network.zones


def _ports(stack: Synthesized, balancer: str) -> str:
    return "ports " + ", ".join(map(str, _listeners(stack, balancer)))


def _boxes(stack: Synthesized, settings: RegionSettings) -> dict[str, _Box]:
    valkey: Mapping[str, Any] = stack.of("aws_elasticache_replication_group")[0].body
    endpoints = sorted(
        each.body["service_name"].rpartition(".")[2]
        for each in stack.of("aws_vpc_endpoint")
        if each.body["vpc_endpoint_type"] == "Interface"
    )
    zones = settings.network.endpoint_zones
    pools = list(_pools(stack))
    return {
        "clients": _Box(
            20, 110, 170, 96, "", "Bazel, CI", [*settings.clients[:2], f"TLS: {settings.tls.mode}"]
        ),
        "edge": _Box(
            270, 110, 180, 96, "balancer", "Balancer: clients",
            [f"NLB, {'internet-facing' if settings.public else 'internal'}", _ports(stack, "edge")],
        ),
        "inner": _Box(
            330, 330, 205, 96, "balancer", "Balancer: machines",
            ["NLB, internal", _ports(stack, "inner")],
        ),
        "cas": _Box(
            740, 110, 210, 96, "fleet", "cas",
            [_machines(stack, "cas"), "memory and local NVMe", "forwards executions"],
        ),
        "scheduler": _Box(
            650, 330, 210, 96, "fleet", "scheduler",
            [_machines(stack, "scheduler"), "queue in memory", "writes action results"],
        ),
        "worker": _Box(
            270, 545, 360, 62 + 17 * len(pools), "fleet", "workers",
            [*pools, "reach no bucket; end themselves when idle"],
        ),
        "redis": _Box(
            930, 545, 180, 96, "store", "Valkey",
            [
                f"{valkey['num_cache_clusters']} x {valkey['node_type']}",
                "small blobs, results",
                "TLS, one user",
            ],
        ),
        "endpoints": _Box(
            270, 680, 840, 62, "service", "Interface endpoints (there is no way to the internet)",
            [f"{', '.join(endpoints)}; in {zones} {'zone' if zones == 1 else 'zones'}"],
        ),
        "s3": _Box(
            1190, 110, 200, 130, "store", "S3, by its gateway",
            [
                f"{_purpose(settings, each)}: {_life(stack, each)}"
                for each in stack.of("aws_s3_bucket")
            ],
        ),
        "cloudwatch": _Box(
            1190, 330, 200, 96, "service", "CloudWatch",
            [
                f"{len(stack.of('aws_cloudwatch_metric_alarm'))} alarms, 1 dashboard",
                "load of pools every 10 s",
                "policies start workers",
            ],
        ),
        "drain": _Box(
            1190, 545, 200, 96, "service", "Drain queue (SQS)",
            ["spot notices, rebalancing,", "machines that go", "from EventBridge"],
        ),
        "others": _Box(
            1190, 680, 200, 62, "service", "Also",
            [f"{len(stack.of('aws_kms_key'))} KMS keys, secrets, budget"],
        ),
    }  # fmt: skip


def _purpose(settings: RegionSettings, bucket: Resource) -> str:
    name: str = bucket.body["bucket"].removeprefix(f"nl-{settings.name}-")
    return name.partition("-")[0]


def _life(stack: Synthesized, bucket: Resource) -> str:
    rules = [
        each.body["rule"][0]
        for each in stack.of("aws_s3_bucket_lifecycle_configuration")
        if (owner := stack.referred(each.body["bucket"])) is not None and owner.name == bucket.name
    ]
    expiry = rules[0].get("expiration") if rules else None
    return f"{expiry[0]['days']} days" if expiry else "kept"


#: What is told without a connection of ours: by whom, to whom, what.
_TOLD: Final = (
    ("scheduler", "cloudwatch", "metrics"),
    ("cloudwatch", "worker", "more workers"),
    ("drain", "scheduler", "who goes"),
)


def picture(stack: Synthesized, settings: RegionSettings) -> str:
    """The whole SVG."""
    boxes = _boxes(stack, settings)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" role="img">'
        ),
        f"<title>The region {escape(settings.name)}</title>",
        f"<style>{_STYLE}</style>",
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
            for name, colour in (("head", "#1f5fa8"), ("told", "#76448a"))
        ),
        "</defs>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        '<rect class="network" x="240" y="50" width="900" height="715" rx="10"/>',
        (
            f'<text class="title" x="256" y="76">Network {escape(settings.network.cidr)}, '
            f"{_zones(settings)} zones, {escape(settings.region)}</text>"
        ),
        f'<text class="title" x="20" y="34">Region {escape(settings.name)}</text>',
    ]
    ports = ", ".join(map(str, _listeners(stack, "edge")))
    arrows = [("clients", "edge", ports)]
    for (one, other), numbers in connections(stack).items():
        if other != "endpoints":
            arrows.append((one, other, ", ".join(map(str, numbers))))
    arrows += [("cas", "s3", "443"), ("scheduler", "s3", "443")]
    drawn = [(*each, "arrow") for each in arrows] + [(*each, "tells") for each in _TOLD]
    pairs = {(one, other) for one, other, _, _ in drawn}
    for one, other, label, kind in drawn:
        parts += _arrow(boxes, one, other, label, kind, beside=(other, one) in pairs)
    for box in boxes.values():
        parts += box.svg()
    for one, other, label, _ in drawn:
        parts += _label(boxes, one, other, label, beside=(other, one) in pairs)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ends(
    boxes: Mapping[str, _Box], one: str, other: str, *, beside: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of an arrow; `beside` the middle where another one comes back."""
    start, end = boxes[one].middle, boxes[other].middle
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx * dx + dy * dy) ** 0.5
    off = (-dy / length * 9, dx / length * 9) if beside else (0.0, 0.0)
    from_ = boxes[one].border(end)
    to = boxes[other].border(start)
    return (from_[0] + off[0], from_[1] + off[1]), (to[0] + off[0], to[1] + off[1])


def _arrow(
    boxes: Mapping[str, _Box], one: str, other: str, label: str, kind: str, *, beside: bool
) -> Iterator[str]:
    (x1, y1), (x2, y2) = _ends(boxes, one, other, beside=beside)
    yield (
        f'<line class="{kind}" data-from="{one}" data-to="{other}" data-ports="{label}" '
        f'x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"/>'
    )


def _label(
    boxes: Mapping[str, _Box], one: str, other: str, label: str, *, beside: bool
) -> Iterator[str]:
    """What stands on an arrow."""
    (x1, y1), (x2, y2) = _ends(boxes, one, other, beside=beside)
    x, y = x1 + (x2 - x1) * 0.42, y1 + (y2 - y1) * 0.42
    width = 7 * len(label) + 4
    yield (
        f'<rect x="{x - width / 2:.0f}" y="{y - 9:.0f}" width="{width}" height="17" '
        'fill="#ffffff" opacity="0.92"/>'
    )
    yield (
        f'<text class="port" text-anchor="middle" x="{x:.0f}" y="{y + 4:.0f}">'
        f"{escape(label)}</text>"
    )
