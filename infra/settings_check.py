"""What only the whole of a region's settings can tell, before anything is synthesized."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from infra.settings import ISA, MutualTls, NoTls, PoolSettings, RegionSettings, ServerTls
from nativelink.config.problems import Path, Problem, closest, error, format_value

__all__ = ["check"]

#: ElastiCache takes no name with two dashes in a row.
_NAME: Final = re.compile(r"(?=.{1,16}\Z)[a-z](?:-?[a-z0-9])*")
_NAMES: Final = "up to 16 lower-case letters, digits and single dashes, beginning with a letter"
#: Tags that the kit gives; some services do not tell small letters from large ones.
_OWN_TAGS: Final = frozenset({"managedby", "name", "nativelinkregion", "project"})
_REGION: Final = re.compile(r"(?:af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[1-9]")
_TYPE: Final = re.compile(
    r"(?P<family>[a-z][a-z0-9-]*)\.(?P<size>(?:[0-9]*x?large|medium|small|metal))"
)
_MAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_DOMAIN: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}")
#: Instance families that the kit knows, by architecture: current generations with EBS encryption
#: and Nitro, on which the image's drivers are tested.
FAMILIES: Final = {
    ISA.X86: frozenset([
        "c5", "c5a", "c5d", "c5n", "c6a", "c6i", "c6id", "c6in", "c7a", "c7i", "c7i-flex", "c8i",
        "i3en", "i4i", "i7ie", "m5", "m5a", "m5d", "m5n", "m6a", "m6i", "m6id", "m6in", "m7a",
        "m7i", "m7i-flex", "m8i", "r5", "r5a", "r5d", "r5n", "r6a", "r6i", "r6id", "r6in", "r7a",
        "r7i", "r7iz", "r8i", "t3", "t3a", "x2idn",
    ]),
    ISA.ARM: frozenset([
        "c6g", "c6gd", "c6gn", "c7g", "c7gd", "c7gn", "c8g", "c8gd", "i4g", "i8g", "im4gn",
        "is4gen", "m6g", "m6gd", "m7g", "m7gd", "m8g", "m8gd", "r6g", "r6gd", "r7g", "r7gd",
        "r8g", "r8gd", "t4g", "x2gd",
    ]),
}  # fmt: skip
#: Types that a spot pool may choose from, at least: fewer, and one shortage stops it.
SPOT_TYPES: Final = 10


def check(settings: RegionSettings) -> Iterator[Problem]:
    """Every finding about one region, in no particular order."""
    yield from _words(settings)
    yield from _clients(settings)
    yield from _network(settings)
    yield from _tls(settings)
    yield from _storage(settings)
    yield from _machines(settings)
    yield from _pools(settings)
    yield from _image(settings)


def _words(settings: RegionSettings) -> Iterator[Problem]:
    if not _NAME.fullmatch(settings.name):
        yield error(
            ("name",),
            "not a name",
            got=format_value(settings.name),
            allowed=_NAMES,
        )
    if not re.fullmatch(r"[0-9]{12}", settings.account):
        yield error(
            ("account",), "not an account", got=format_value(settings.account), allowed="12 digits"
        )
    if not _REGION.fullmatch(settings.region):
        yield error(
            ("region",),
            "not an AWS region",
            got=format_value(settings.region),
            allowed="a region of AWS' commercial partition, such as eu-central-1",
        )
    if not _MAIL.fullmatch(settings.contact):
        yield error(
            ("contact",),
            "not a mail address",
            got=format_value(settings.contact),
            allowed="an address such as builds@example.com",
        )
    bucket = settings.state_bucket
    place = f"{settings.account}-{settings.region}"
    if bucket is not None and not (settings.account in bucket and settings.region in bucket):
        yield error(
            ("state_bucket",),
            "not a bucket of this account and region",
            got=format_value(bucket),
            allowed=f"a name that has {settings.account} and {settings.region} in it",
            suggestion=f"nativelink-state-{place}",
        )
    for key in settings.tags:
        if key.lower().startswith("aws:"):
            yield error(
                ("tags", key), "AWS keeps tags that begin with aws: for itself", at_key=True
            )
        elif key.lower() in _OWN_TAGS:
            yield error(("tags", key), "the kit gives this tag itself", at_key=True)


_RFC1918: Final = tuple(
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)


def _is_private(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Whether the internet does not carry it; Python's `is_private` knows more such ranges."""
    return isinstance(network, ipaddress.IPv4Network) and any(
        isinstance(each, ipaddress.IPv4Network) and network.subnet_of(each) for each in _RFC1918
    )


def _network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _clients(settings: RegionSettings) -> Iterator[Problem]:
    own = _network_of(settings.network.cidr)
    seen: set[str] = set()
    if not settings.clients:
        yield error(("clients",), "is empty", allowed="at least one network")
    for index, text in enumerate(settings.clients):
        path: Path = ("clients", index)
        network = _network_of(text)
        if network is None:
            yield error(
                path, "not a network", got=format_value(text), allowed="a CIDR such as 10.0.0.0/8"
            )
            continue
        if text in seen:
            yield error(path, "is in the list already", got=format_value(text))
        seen.add(text)
        if network.prefixlen == 0:
            yield error(
                path,
                "would let the whole internet use the cache",
                got=format_value(text),
                allowed="the networks of your offices, VPN and CI",
            )
        elif settings.public and _is_private(network):
            yield error(
                path,
                "a private network cannot reach a public address",
                got=format_value(text),
                hint="leave `public` out, or give the addresses that the internet sees",
            )
        if network.version == 6 and not settings.network.ipv6:
            yield error(path, "needs `network.ipv6: true`", got=format_value(text))
        if (
            own is not None
            and isinstance(network, ipaddress.IPv4Network)
            and isinstance(own, ipaddress.IPv4Network)
            and own.overlaps(network)
            and not own.subnet_of(network)
        ):
            yield error(
                path,
                f"overlaps with network.cidr, {own}",
                got=format_value(text),
                hint="choose another network.cidr",
            )


def _network(settings: RegionSettings) -> Iterator[Problem]:
    network = settings.network
    own = _network_of(network.cidr)
    if not isinstance(own, ipaddress.IPv4Network):
        yield error(
            ("network", "cidr"),
            "not an IPv4 network",
            got=format_value(network.cidr),
            allowed="a CIDR such as 10.64.0.0/16, with no bits set behind its length",
        )
    elif not 16 <= own.prefixlen <= 20 or not _is_private(own):
        yield error(
            ("network", "cidr"),
            "not a private network of /16 to /20",
            got=format_value(network.cidr),
            allowed="part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        )
    names = network.zone_names
    if names and not 2 <= len(names) <= 4:
        yield error(
            ("network", "zone_names"),
            "names too few or too many",
            got=str(len(names)),
            allowed="2 to 4 zones",
        )
    for index, name in enumerate(names):
        if not name.startswith(settings.region) or len(name) != len(settings.region) + 1:
            yield error(
                ("network", "zone_names", index),
                f"not a zone of {settings.region}",
                got=format_value(name),
                allowed=f"a name such as {settings.region}a",
            )
    count = len(names) or network.zones
    if network.endpoint_zones > count:
        yield error(
            ("network", "endpoint_zones"),
            "more than there are zones",
            got=str(network.endpoint_zones),
            allowed=f"at most {count}",
        )
    if network.share_with and isinstance(settings.tls, NoTls):
        yield error(
            ("network", "share_with"),
            "would leave the account in plain text",
            hint="choose another `tls.mode`",
        )


def _tls(settings: RegionSettings) -> Iterator[Problem]:
    tls = settings.tls
    if isinstance(tls, NoTls):
        if settings.public:
            yield error(
                ("tls", "mode"),
                "a public address needs TLS",
                got='"none"',
                allowed=['"server"', '"mutual"'],
            )
        return
    if not _DOMAIN.fullmatch(tls.domain):
        yield error(
            ("tls", "domain"),
            "not a domain name",
            got=format_value(tls.domain),
            allowed="lower-case words joined by dots, such as cache.example.com",
        )
    if tls.zone_id is not None and not re.fullmatch(r"Z[A-Z0-9]{4,31}", tls.zone_id):
        yield error(
            ("tls", "zone_id"),
            "not a hosted zone's id",
            got=format_value(tls.zone_id),
            allowed="capital letters and digits that begin with Z",
        )
    if tls.nearest and tls.zone_id is None:
        yield error(("tls", "nearest"), "needs zone_id: the kit has to write the name")
    arns: list[tuple[str, str | None, str]] = []
    if isinstance(tls, ServerTls):
        if tls.zone_id is None and tls.certificate_arn is None:
            yield error(
                ("tls",),
                "neither zone_id nor certificate_arn is given",
                hint="with zone_id the kit proves and renews a certificate by itself",
            )
        arns = [("certificate_arn", tls.certificate_arn, "acm")]
    elif isinstance(tls, MutualTls):
        arns = [
            ("secret_arn", tls.secret_arn, "secretsmanager"),
            ("secret_key_arn", tls.secret_key_arn, "kms"),
        ]
    for key, arn, service in arns:
        beginning = f"arn:aws:{service}:{settings.region}:"
        if arn is not None and not arn.startswith(beginning):
            yield error(
                ("tls", key),
                "not an ARN of this service and region",
                got=format_value(arn),
                allowed=f"{beginning}…",
            )


def _storage(settings: RegionSettings) -> Iterator[Problem]:
    storage = settings.storage
    if storage.archive_after_days < storage.infrequent_after_days + 30:
        yield error(
            ("storage", "archive_after_days"),
            "S3 bills STANDARD_IA for 30 days",
            got=str(storage.archive_after_days),
            allowed=f"at least {storage.infrequent_after_days + 30}",
        )
    if storage.profile == "lifecycle" and storage.cas_days < storage.archive_after_days + 90:
        yield error(
            ("storage", "expire_after_days"),
            "S3 bills GLACIER_IR for 90 days",
            got=str(storage.cas_days),
            allowed=f"at least {storage.archive_after_days + 90}",
            hint='or choose profile "short"',
        )


def _family(path: Path, text: str, isa: ISA | None) -> Iterator[Problem]:
    match = _TYPE.fullmatch(text)
    known = sorted(FAMILIES[isa] if isa else FAMILIES[ISA.X86] | FAMILIES[ISA.ARM])
    if match is None:
        yield error(
            path, "not an instance type", got=format_value(text), allowed="such as m7g.large"
        )
    elif match["family"] not in known:
        other = next(
            (each for each in ISA if each is not isa and match["family"] in FAMILIES[each]), None
        )
        yield error(
            path,
            f"is {other}, the pool is {isa}"
            if other and isa
            else "not a family that the kit knows",
            got=format_value(text),
            allowed=known,
            suggestion=None if other else closest(match["family"], known),
        )


def isa_of(instance_type: str) -> ISA:
    """The architecture of a type that was checked."""
    return ISA.ARM if instance_type.split(".")[0] in FAMILIES[ISA.ARM] else ISA.X86


def _machines(settings: RegionSettings) -> Iterator[Problem]:
    yield from _family(("cas", "instance_type"), settings.cas.instance_type, None)
    yield from _family(("scheduler", "instance_type"), settings.scheduler.instance_type, None)
    cas = settings.cas
    if cas.max_count is not None and cas.max_count <= cas.count:
        yield error(
            ("cas", "max_count"),
            "leaves no room to replace a machine",
            got=str(cas.max_count),
            allowed=f"at least {cas.count + 1}",
        )
    node = settings.redis.node_type
    if not re.fullmatch(r"cache\.[a-z0-9]+\.[a-z0-9]+", node):
        yield error(
            ("redis", "node_type"),
            "not a node type",
            got=format_value(node),
            allowed="such as cache.r7g.large",
        )
    if not settings.redis.engine_version.startswith(("7.", "8.")):
        yield error(
            ("redis", "engine_version"),
            "not a version of Valkey",
            got=format_value(settings.redis.engine_version),
            allowed="7.2, 8.0 or later",
        )


def _pools(settings: RegionSettings) -> Iterator[Problem]:
    seen: set[str] = set()
    if not settings.pools:
        yield error(("pools",), "is empty", allowed="at least one pool")
    for index, pool in enumerate(settings.pools):
        path: Path = ("pools", index)
        if not _NAME.fullmatch(pool.name):
            yield error(
                (*path, "name"),
                "not a name",
                got=format_value(pool.name),
                allowed=_NAMES,
            )
        if pool.name in seen:
            yield error((*path, "name"), f'another pool is called "{pool.name}" already')
        seen.add(pool.name)
        yield from _pool(path, pool)


def _pool(path: Path, pool: PoolSettings) -> Iterator[Problem]:
    if pool.min > pool.max:
        yield error((*path, "min"), "more than max", got=str(pool.min), allowed=f"0 to {pool.max}")
    if pool.on_demand_base > pool.max:
        yield error(
            (*path, "on_demand_base"),
            "more than max",
            got=str(pool.on_demand_base),
            allowed=f"0 to {pool.max}",
        )
    for index, text in enumerate(pool.instance_types):
        yield from _family((*path, "instance_types", index), text, pool.isa)
        if text in pool.instance_types[:index]:
            yield error(
                (*path, "instance_types", index), "is in the list already", got=format_value(text)
            )
    sizes = {text.partition(".")[2] for text in pool.types}
    if len(sizes) > 1 and pool.slots == 0:
        yield error(
            (*path, "instance_types"),
            "sizes differ, so a worker's slots would too",
            got=", ".join(sorted(sizes)),
            hint="keep to one size, or set `slots`",
        )
    if pool.uses_spot and len(pool.types) < SPOT_TYPES:
        yield error(
            (*path, "instance_types"),
            "too few to find spot capacity",
            got=str(len(pool.types)),
            allowed=f"at least {SPOT_TYPES}",
            hint="or on_demand_percent: 100",
        )


def _image(settings: RegionSettings) -> Iterator[Problem]:
    image = settings.image
    if not image.ami_ids:
        return
    for isa in sorted({isa_of(each) for each in _all_types(settings) if _TYPE.fullmatch(each)}):
        if isa not in image.ami_ids:
            yield error(
                ("image", "ami_ids"),
                f"names no image for {isa}",
                got=", ".join(image.ami_ids),
                hint=f"add {isa}, or leave ami_ids out",
            )
    for isa, ami in image.ami_ids.items():
        if not re.fullmatch(r"ami-[0-9a-f]{8,17}", ami):
            yield error(
                ("image", "ami_ids", isa.value),
                "not an image's id",
                got=format_value(ami),
                allowed="such as ami-0123456789abcdef0",
            )


def _all_types(settings: RegionSettings) -> Iterator[str]:
    yield settings.cas.instance_type
    yield settings.scheduler.instance_type
    for pool in settings.pools:
        yield from pool.types
