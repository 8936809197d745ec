"""What `regions/NAME.yaml` may say: one region, as frozen specs.

Six answers are enough: name, account, region, clients, contact and tls. Everything else has a
default, which its description states as behaviour. `settings_load` reads the file,
`settings_check` tells what only the whole of it can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Discriminator, Field

from nativelink.config.fields import Flag, Items, Number, Seconds, Spec, Verbatim

__all__ = [
    "ISA",
    "AlarmSettings",
    "BudgetSettings",
    "CasSettings",
    "ImageSettings",
    "LogSettings",
    "MutualTls",
    "Nat",
    "NetworkSettings",
    "NoTls",
    "PoolSettings",
    "RedisSettings",
    "RegionSettings",
    "SchedulerSettings",
    "ServerTls",
    "StorageProfile",
    "StorageSettings",
    "TlsSettings",
]

_Count = Annotated[Number, Field(ge=1)]
_Percent = Annotated[Number, Field(ge=1, le=95)]
_Text = Annotated[Verbatim, Field(min_length=1)]
_Nearest = Annotated[
    Flag,
    Field(
        description="Several regions of the farm have this `domain`, each with `nearest: true`: "
        "Route 53 leads clients to the nearest one that is well. Needs `zone_id`."
    ),
]


class ISA(StrEnum):
    """Processor architectures, as the platform property ISA names them."""

    X86 = "x86-64"
    ARM = "arm64"


class Nat(StrEnum):
    """How private subnets reach the internet. The kit itself never needs to."""

    NONE = "none"
    SINGLE = "single"
    PER_ZONE = "per_zone"


class NetworkSettings(Spec):
    """The region's own virtual network."""

    cidr: _Text = Field(
        default="10.64.0.0/16",
        description="Addresses of the network, /16 to /20. It must not overlap with `clients` "
        "that come over peering or VPN.",
    )
    zones: Annotated[Number, Field(ge=2, le=4)] = Field(
        default=3, description="Availability zones, 2 to 4; the first ones that AWS lists."
    )
    zone_names: Annotated[tuple[_Text, ...], Items] = Field(
        default=(), description="These availability zones instead, such as `eu-central-1a`."
    )
    nat: Annotated[Nat, Items] = Field(
        default=Nat.NONE,
        description="NAT gateways, for actions that download by HTTP or HTTPS: `none`, `single` "
        "or `per_zone`.",
    )
    endpoint_zones: _Count = Field(
        default=1,
        description="Zones with an interface endpoint of each AWS service. Each costs by the "
        "hour; one zone serves all, until it fails.",
    )
    shell: Flag = Field(
        default=True,
        description="Endpoints for Session Manager, the only way onto a machine.",
    )
    ipv6: Flag = Field(default=False, description="Give the network IPv6 addresses too.")
    share_with: Annotated[tuple[_Text, ...], Items] = Field(
        default=(),
        description="ARNs of accounts or roles that may reach the endpoint by PrivateLink.",
    )


class NoTls(Spec):
    """Plain text, for a network that is trusted."""

    mode: Literal["none"] = Field(description="No TLS.")


class ServerTls(Spec):
    """The load balancer shows a certificate of ACM."""

    mode: Literal["server"] = Field(description="Clients check the server.")
    domain: _Text = Field(description="Name that clients call, such as `cache.example.com`.")
    zone_id: _Text | None = Field(
        default=None,
        description="Route 53 zone that gets the name and proves the certificate. Unset: give "
        "`certificate_arn`, and point the name at the load balancer yourself.",
    )
    certificate_arn: _Text | None = Field(
        default=None, description="An existing ACM certificate. Unset: the kit asks for one."
    )
    nearest: _Nearest = False


class MutualTls(Spec):
    """The servers check clients' certificates; the load balancer passes bytes on."""

    mode: Literal["mutual"] = Field(description="Clients need certificates of your authority.")
    domain: _Text = Field(description="Name that clients call, such as `cache.example.com`.")
    zone_id: _Text | None = Field(
        default=None,
        description="Route 53 zone that gets the name. Unset: point it at the load balancer "
        "yourself.",
    )
    secret_arn: _Text = Field(
        description="Secret with `cert`, `key`, `ca`, `client_ca` and, if you revoke, `crl`, as "
        "PEM texts in a JSON object (docs/deploy.md makes it)."
    )
    nearest: _Nearest = False
    revocation: Flag = Field(
        default=False, description="The secret has `crl`: certificates in it are refused."
    )
    secret_key_arn: _Text | None = Field(
        default=None,
        description="KMS key of that secret. Unset: AWS' own for secrets.",
    )


TlsSettings = Annotated[NoTls | ServerTls | MutualTls, Discriminator("mode")]


class StorageProfile(StrEnum):
    """What becomes of objects as they age."""

    LIFECYCLE = "lifecycle"
    INTELLIGENT_TIERING = "intelligent_tiering"
    SHORT = "short"


class StorageSettings(Spec):
    """How long S3 keeps what nobody uses, and where. Action results always go before blobs."""

    profile: Annotated[StorageProfile, Items] = Field(
        default=StorageProfile.LIFECYCLE,
        description="`lifecycle`: STANDARD_IA, then GLACIER_IR, then gone; "
        "`intelligent_tiering`: S3 moves what is not read; `short`: standard storage only.",
    )
    infrequent_after_days: Annotated[Number, Field(ge=30)] = Field(
        default=30, description="`lifecycle`: days until STANDARD_IA, at least S3's 30."
    )
    archive_after_days: Annotated[Number, Field(ge=60)] = Field(
        default=90, description="`lifecycle`: days until GLACIER_IR."
    )
    expire_after_days: Annotated[Number, Field(ge=8, le=3650)] | None = Field(
        default=None,
        description="Days until an unused blob is deleted. Unset: 180, or 30 with `short`.",
    )
    abort_uploads_after_days: Annotated[Number, Field(ge=1, le=7)] = Field(
        default=2, description="Days until the parts of an unfinished upload are deleted."
    )

    @property
    def cas_days(self) -> int:
        """Age in days at which S3 deletes blobs and indexes."""
        if self.expire_after_days is not None:
            return self.expire_after_days
        return 30 if self.profile is StorageProfile.SHORT else 180

    @property
    def ac_days(self) -> int:
        """Age at which S3 deletes action results: a sixth earlier, so none outlives its blobs."""
        return self.cas_days - max(2, self.cas_days // 6)


class RedisSettings(Spec):
    """Valkey in ElastiCache: small blobs and action results."""

    node_type: _Text = Field(default="cache.r7g.large", description="Size of each node.")
    replicas: Annotated[Number, Field(le=5)] = Field(
        default=1, description="Copies in other zones, 0 to 5. With 0 a failure loses the cache."
    )
    engine_version: _Text = Field(default="8.0", description="Valkey's version.")
    password_generation: _Count = Field(
        default=1,
        description="Raise it by one to change the password; the one before stays valid until "
        "the next change.",
    )


class CasSettings(Spec):
    """Machines that clients talk to."""

    instance_type: _Text = Field(
        default="m7gd.2xlarge", description="Size; with local NVMe disks reads stay local."
    )
    count: Annotated[Number, Field(ge=1)] = Field(
        default=2, description="Machines, spread over the zones."
    )
    max_count: _Count | None = Field(
        default=None, description="Largest number while machines are replaced. Unset: twice."
    )
    disk_gb: Annotated[Number, Field(ge=20, le=16384)] = Field(
        default=100, description="GB of the root disk, used where there is no NVMe disk."
    )
    memory_percent: _Percent = Field(
        default=40, description="Share of memory for blobs kept in memory."
    )
    disk_percent: _Percent = Field(default=80, description="Share of the disk for blobs.")


class SchedulerSettings(Spec):
    """The machine that queues actions. There is one: while it is replaced, builds wait."""

    instance_type: _Text = Field(default="m7g.large", description="Size.")
    disk_gb: Annotated[Number, Field(ge=20, le=1024)] = Field(
        default=30, description="GB of the root disk."
    )


#: Types of about the same size, so that any of them serves: 8 processors and 16 GiB or more.
DEFAULT_TYPES: Final[Mapping[ISA, tuple[str, ...]]] = {
    ISA.X86: (
        "c7i.2xlarge", "c6i.2xlarge", "c7a.2xlarge", "c6a.2xlarge", "c5.2xlarge", "c5d.2xlarge",
        "c6id.2xlarge", "m7i.2xlarge", "m6i.2xlarge", "m6a.2xlarge", "m5.2xlarge", "m5d.2xlarge",
    ),
    ISA.ARM: (
        "c7g.2xlarge", "c7gd.2xlarge", "c6g.2xlarge", "c6gd.2xlarge", "m7g.2xlarge",
        "m7gd.2xlarge", "m6g.2xlarge", "m6gd.2xlarge", "r7g.2xlarge", "r6g.2xlarge",
    ),
}  # fmt: skip


class PoolSettings(Spec):
    """A pool of equal workers."""

    name: _Text = Field(description="Name of the pool: the platform property `pool`.")
    isa: Annotated[ISA, Items] = Field(
        default=ISA.X86, description="Architecture: the platform property `ISA`."
    )
    instance_types: Annotated[tuple[_Text, ...], Items] = Field(
        default=(),
        description="Types that may be launched, all of one size. With spot at least ten. Unset: "
        "types with 8 processors.",
    )
    min: Number = Field(default=0, description="Workers that are always there.")
    max: _Count = Field(default=20, description="Workers at most.")
    slots: Number = Field(
        default=0,
        description="Actions at the same time on a worker. 0: one per processor.",
    )
    on_demand_base: Number = Field(
        default=0, description="The first so many workers are on-demand instead of spot."
    )
    on_demand_percent: Annotated[Number, Field(le=100)] = Field(
        default=0, description="Share of the workers above them that are on-demand."
    )
    idle_after_s: Annotated[Seconds, Field(ge=10)] = Field(
        default=15,
        description="Seconds without work until a worker above `min` leaves. 120 makes small "
        "builds faster, and workers cost a quarter more (docs/fleet-simulation.md).",
    )
    boot_s: Annotated[Seconds, Field(ge=10)] = Field(
        default=90, description="Seconds from launch to the first action."
    )
    disk_gb: Annotated[Number, Field(ge=20, le=16384)] = Field(
        default=100, description="GB of the root disk, used where there is no NVMe disk."
    )

    @property
    def types(self) -> tuple[str, ...]:
        """The types that may be launched."""
        return self.instance_types or DEFAULT_TYPES[self.isa]

    @property
    def uses_spot(self) -> bool:
        """Whether any worker may be a spot instance."""
        return self.on_demand_percent < 100 and self.on_demand_base < self.max


class ImageSettings(Spec):
    """The machine image."""

    ami_ids: Mapping[Annotated[ISA, Items], _Text] = Field(
        default={},
        description="Existing images, by architecture, such as `x86-64: ami-…`. Unset: the kit "
        "builds them with EC2 Image Builder.",
    )
    revision: _Count = Field(
        default=1,
        description="Raise it by one to build the image anew, with the operating system's updates.",
    )
    bundle: _Text = Field(
        default="dist/image-bundle.tar.gz",
        description="What is installed in it, as `make image-bundle` writes it.",
    )
    rebuild: _Text | None = Field(
        default="cron(0 3 ? * sun *)",
        description="When images are rebuilt with the operating system's updates (UTC), if there "
        "are any. `null`: never. Machines start from one once `ami_ids` names it.",
    )
    keep: _Count = Field(
        default=5,
        description="Images kept, besides those from which machines started in six months.",
    )


class LogSettings(Spec):
    """Logs."""

    audit_days: Annotated[Number, Field(ge=1)] = Field(
        default=365, description="Days that servers' and network logs are kept."
    )
    worker_days: Annotated[Number, Field(ge=1)] = Field(
        default=30, description="Days that workers' logs are kept."
    )


class AlarmSettings(Spec):
    """When people are called."""

    queue_s: Annotated[Seconds, Field(ge=60)] = Field(
        default=600, description="Seconds that an action may wait in a pool."
    )
    spot_interruptions: _Count = Field(
        default=20, description="Interrupted workers of a pool in an hour."
    )
    hit_percent: Annotated[Number, Field(le=100)] = Field(
        default=5,
        description="Percent of asked action results that should be there, over half an hour in "
        "which there were a thousand questions or more. 0: no alarm.",
    )
    cas_p99_ms: _Count = Field(
        default=2000,
        description="Milliseconds within which 99 % of the CAS' calls of bounded size should end.",
    )
    failed_percent: _Percent = Field(
        default=5, description="Percent of calls that may fail by the servers' fault."
    )
    paid_metrics: Flag = Field(
        default=True, description="S3's request metrics, which are charged, and alarms on them."
    )


class BudgetSettings(Spec):
    """The monthly bill."""

    monthly_usd: _Count = Field(
        default=2000,
        description="US dollars; a mail at 80 %, at 100 %, and if the month's forecast is above.",
    )


class RegionSettings(Spec):
    """One region of the farm: everything that `cdktf deploy` makes."""

    name: _Text = Field(
        description="Short name; every resource's name begins with it. Of several in one AWS "
        "region and account, none may begin with another's and a dash."
    )
    account: _Text = Field(description="The AWS account's twelve digits, in quotes.")
    region: _Text = Field(description="The AWS region, such as `eu-central-1`.")
    clients: Annotated[tuple[_Text, ...], Items] = Field(
        description="Networks, as CIDRs, that may use the cache: offices, VPN, CI.",
    )
    contact: _Text = Field(description="Mail address for alarms and the budget.")
    tls: TlsSettings = Field(description="How clients and servers know each other.")

    public: Flag = Field(
        default=False,
        description="An address on the internet. Without, clients come over VPN, peering or "
        "PrivateLink.",
    )
    destroyable: Flag = Field(
        default=False,
        description="`cdktf destroy` deletes buckets with what is in them, and keys. Without, "
        "data is protected.",
    )
    clients_write_results: Flag = Field(
        default=True,
        description="Clients may write action results. Without, only what ran here is shared: "
        "nobody's own machine can spoil the cache.",
    )
    state_bucket: _Text | None = Field(
        default=None,
        description="Bucket of Terraform's state, as the bootstrap stack prints it. Unset: the "
        "state is a file on this machine, for experiments.",
    )
    network: NetworkSettings = Field(default=NetworkSettings(), description="The virtual network.")
    storage: StorageSettings = Field(default=StorageSettings(), description="Objects in S3.")
    redis: RedisSettings = Field(default=RedisSettings(), description="Valkey.")
    cas: CasSettings = Field(default=CasSettings(), description="The cache's machines.")
    scheduler: SchedulerSettings = Field(
        default=SchedulerSettings(), description="The scheduler's machine."
    )
    pools: Annotated[tuple[PoolSettings, ...], Items] = Field(
        default=(PoolSettings(name="x86"),), description="Pools of workers."
    )
    image: ImageSettings = Field(default=ImageSettings(), description="The machine image.")
    logs: LogSettings = Field(default=LogSettings(), description="Logs.")
    alarms: AlarmSettings = Field(default=AlarmSettings(), description="Alarms.")
    budget: BudgetSettings = Field(default=BudgetSettings(), description="The bill.")
    tags: Mapping[str, Verbatim] = Field(
        default={}, description="Tags on everything, such as `CostCenter`."
    )
