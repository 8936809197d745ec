"""A region: everything between a client's connection and a worker's last breath."""

from __future__ import annotations

from typing import Final

from constructs import Construct

from infra import dashboard
from infra._cdk import LbTargetGroup, TerraformOutput, TerraformStack, VpcEndpointService
from infra.environment import (
    CLIENT_PORT,
    SCHEDULER_PORT,
    STATUS_PORT,
    WORKER_API_PORT,
    WORKER_CAS_PORT,
    Role,
)
from infra.kit import Kit
from infra.machines import Addresses, user_data_of
from infra.modules.alarms import Alarms
from infra.modules.autoscaling import Autoscaling
from infra.modules.buckets import Buckets
from infra.modules.budget import Budget
from infra.modules.certificates import Certificate
from infra.modules.dashboards import Dashboards
from infra.modules.dns import InternalNames, PublicName
from infra.modules.drain_queue import DrainQueue
from infra.modules.endpoints import Endpoints
from infra.modules.firewall import ClientNetworks, Firewall
from infra.modules.images import Images
from infra.modules.keys import Keys
from infra.modules.launch_template import Machine
from infra.modules.load_balancer import LoadBalancer, Tls
from infra.modules.logs import Logs
from infra.modules.network import Network
from infra.modules.notifications import Notifications
from infra.modules.redis import Redis
from infra.modules.roles import MachineRole, namespace_of
from infra.modules.service_fleet import READY_HOOK, ServiceFleet
from infra.modules.worker_fleet import DRAIN_HOOK, WorkerFleet
from infra.outputs import bazelrc, endpoint_of
from infra.provider import keep_state, provide
from infra.settings import Nat, PoolSettings, ServerTls
from infra.settings_check import isa_of

__all__ = ["RegionStack", "client_ports"]

#: Seconds that builds under way get when a machine they talk to leaves.
_DRAINING_S: Final = 300


def client_ports(kit: Kit) -> tuple[int, int]:
    """Ports that clients use: of the cache with execution behind it, and of the scheduler."""
    tls = kit.settings.tls.mode != "none"
    return (443, 8443) if tls else (CLIENT_PORT, SCHEDULER_PORT)


class RegionStack(TerraformStack):
    """One region, as its settings say."""

    def __init__(self, scope: Construct, id_: str, *, kit: Kit) -> None:
        super().__init__(scope, id_)
        self._kit = kit
        provide(self, kit)
        keep_state(self, kit)
        self._foundation()
        self._doors()
        self._fleets()
        self._watch()
        self._outputs()

    def _foundation(self) -> None:
        kit = self._kit
        self._keys = Keys(self, "keys", kit=kit)
        self._network = Network(self, "network", kit=kit)
        self._buckets = Buckets(self, "buckets", kit=kit, keys=self._keys)
        self._endpoints = Endpoints(
            self, "endpoints", kit=kit, network=self._network, buckets=self._buckets
        )
        self._logs = Logs(
            self,
            "logs",
            kit=kit,
            keys=self._keys,
            network=self._network,
            bucket=self._buckets.logs,
        )
        self._notifications = Notifications(self, "notifications", kit=kit, keys=self._keys)
        self._firewalls: dict[str, Firewall] = {
            role: Firewall(
                self,
                f"{role}-firewall",
                kit=kit,
                network=self._network,
                name=role,
                protects=purpose,
            )
            for role, purpose in (
                ("cas", "Machines that clients talk to"),
                ("scheduler", "The machine that queues actions"),
                ("worker", "Machines that run actions"),
                ("redis", "Valkey"),
            )
        }
        self._redis = Redis(
            self,
            "redis",
            kit=kit,
            network=self._network,
            firewall=self._firewalls["redis"],
            keys=self._keys,
            log_group=self._logs.groups["redis"],
        )
        self._queue = DrainQueue(
            self,
            "drain",
            kit=kit,
            keys=self._keys,
            worker_groups=[kit.group("worker", pool.name) for pool in kit.settings.pools],
        )
        self._images = Images(
            self,
            "images",
            kit=kit,
            network=self._network,
            endpoints=self._endpoints,
            keys=self._keys,
            buckets=self._buckets,
        )
        for role in ("cas", "scheduler"):
            self._firewalls[role].connect_to(
                self._firewalls["redis"], self._redis.port, "Small blobs and action results"
            )
        for role in ("cas", "scheduler", "worker"):
            self._endpoints.serve(self._firewalls[role])

    def _doors(self) -> None:
        """Two balancers: clients reach the one, machines the other."""
        kit, network = self._kit, self._network
        self._edge = LoadBalancer(
            self,
            "edge",
            kit=kit,
            network=network,
            purpose="The clients' way in",
            subnets=network.public if kit.settings.public else network.private,
            public=kit.settings.public,
            logs=self._buckets.logs,
            keep_client_address=True,
        )
        self._inner = LoadBalancer(
            self,
            "inner",
            kit=kit,
            network=network,
            purpose="How machines find each other",
            subnets=network.private,
            public=False,
            logs=self._buckets.logs,
            keep_client_address=False,
        )
        tls = kit.settings.tls
        self._certificate = (
            Certificate(self, "certificate", kit=kit, tls=tls)
            if isinstance(tls, ServerTls)
            else None
        )
        ended_here = Tls(self._certificate.arn) if self._certificate else None
        cache_port, scheduler_port = client_ports(kit)
        self._targets: dict[str, tuple[LoadBalancer, LbTargetGroup]] = {
            "cas": (
                self._edge,
                self._edge.listen(
                    cache_port,
                    target="cas",
                    target_port=CLIENT_PORT,
                    tls=ended_here,
                    draining_s=_DRAINING_S,
                ),
            ),
            "scheduler": (
                self._edge,
                self._edge.listen(
                    scheduler_port,
                    target="scheduler",
                    target_port=SCHEDULER_PORT,
                    tls=ended_here,
                    draining_s=60,
                ),
            ),
        }
        for target, port in (
            ("executions", SCHEDULER_PORT),
            ("worker-api", WORKER_API_PORT),
            ("worker-cas", WORKER_CAS_PORT),
        ):
            group = self._inner.listen(
                port, target=target, target_port=port, tls=None, draining_s=60
            )
            self._targets[target] = (self._inner, group)
        self._open_doors(cache_port, scheduler_port)

    def _open_doors(self, cache_port: int, scheduler_port: int) -> None:
        """Who connects to whom. What is not here cannot happen."""
        clients = ClientNetworks(self, "clients", kit=self._kit)
        edge, inner = self._edge.firewall, self._inner.firewall
        cas, scheduler, worker = (self._firewalls[role] for role in ("cas", "scheduler", "worker"))
        edge.allow_clients(clients, cache_port, "Clients: cache and execution")
        edge.allow_clients(clients, scheduler_port, "Clients: execution")
        edge.connect_to(cas, CLIENT_PORT, "Clients: cache and execution")
        edge.connect_to(scheduler, SCHEDULER_PORT, "Clients: execution")
        cas.connect_to(inner, SCHEDULER_PORT, "Executions that the cas role forwards")
        worker.connect_to(inner, WORKER_API_PORT, "Workers join the scheduler")
        worker.connect_to(inner, WORKER_CAS_PORT, "Workers read and write blobs")
        inner.connect_to(scheduler, SCHEDULER_PORT, "Executions that the cas role forwards")
        inner.connect_to(scheduler, WORKER_API_PORT, "Workers join the scheduler")
        inner.connect_to(cas, WORKER_CAS_PORT, "Workers read and write blobs")
        if self._kit.settings.network.nat is not Nat.NONE:
            for port in (443, 80):
                worker.connect_to_internet(port, "What actions download")
        for balancer, machines in ((edge, (cas, scheduler)), (inner, (cas, scheduler))):
            for each in machines:
                balancer.connect_to(each, STATUS_PORT, "Health checks")

    def _fleets(self) -> None:
        kit, settings = self._kit, self._kit.settings
        names = InternalNames(self, "names", kit=kit, network=self._network)
        self._addresses = Addresses(
            redis=self._redis.host,
            redis_port=self._redis.port,
            redis_secret=self._redis.users["server"].secret.arn,
            scheduler=names.add("scheduler", self._inner.lb),
            worker_api=names.add("workers", self._inner.lb),
            worker_cas=names.add("cas", self._inner.lb),
            queue_url=self._queue.queue.id,
            namespace=namespace_of(kit),
            ready_hook=READY_HOOK,
            drain_hook=DRAIN_HOOK,
            buckets={name: kit.bucket(name) for name in ("cas", "index", "ac")},
        )
        self._service(
            "cas",
            settings.cas.instance_type,
            settings.cas.disk_gb,
            settings.cas.count,
            settings.cas.max_count or 2 * settings.cas.count,
        )
        self._service(
            "scheduler", settings.scheduler.instance_type, settings.scheduler.disk_gb, 1, 1
        )
        for pool in settings.pools:
            self._pool(pool)

    def _machine(
        self, role: Role, instance_type: str, disk_gb: int, pool: PoolSettings | None = None
    ) -> Machine:
        kit = self._kit
        part = f"{role}-{pool.name}" if pool else role
        access = MachineRole(
            self,
            f"{part}-access",
            kit=kit,
            role=role,
            name=part,
            group=kit.group(role, pool.name if pool else None),
            buckets=self._buckets,
            keys=self._keys,
            redis=self._redis,
            queue=self._queue,
            log_group=self._logs.groups[role],
            worker_groups=[kit.group("worker", each.name) for each in kit.settings.pools],
        )
        return Machine(
            self,
            f"{part}-machine",
            kit=kit,
            name=kit.name(part),
            image_id=self._images.id_for(isa_of(instance_type)),
            instance_type=None if pool else instance_type,
            disk_gb=disk_gb,
            firewall=self._firewalls[role],
            role=access,
            keys=self._keys,
            user_data=user_data_of(kit, role, self._addresses, pool),
        )

    def _service(
        self, role: Role, instance_type: str, disk_gb: int, count: int, max_count: int
    ) -> None:
        mine = {
            "cas": ("cas", "worker-cas"),
            "scheduler": ("scheduler", "executions", "worker-api"),
        }
        ServiceFleet(
            self,
            f"{role}-fleet",
            kit=self._kit,
            network=self._network,
            machine=self._machine(role, instance_type, disk_gb),
            name=self._kit.group(role),
            count=count,
            max_count=max_count,
            targets=[self._targets[name][1] for name in mine[role]],
            replace_before=role != "scheduler",
        )

    def _pool(self, pool: PoolSettings) -> None:
        fleet = WorkerFleet(
            self,
            f"worker-{pool.name}-fleet",
            kit=self._kit,
            network=self._network,
            machine=self._machine("worker", pool.types[0], pool.disk_gb, pool),
            name=self._kit.group("worker", pool.name),
            pool=pool,
            topic=self._notifications.topic,
        )
        Autoscaling(self, f"worker-{pool.name}-scaling", kit=self._kit, fleet=fleet, pool=pool)

    def _watch(self) -> None:
        kit = self._kit
        Alarms(
            self,
            "alarms",
            kit=kit,
            topic=self._notifications.topic,
            edge=self._edge,
            targets=self._targets,
            redis=self._redis,
            queue=self._queue,
            certificate=self._certificate.certificate if self._certificate else None,
        )
        Dashboards(
            self, "dashboards", kit=kit, edge=self._edge.lb, redis=self._redis, logs=self._logs
        )
        Budget(self, "budget", kit=kit)
        PublicName(self, "public-name", kit=kit, balancer=self._edge.lb)
        if kit.settings.network.share_with:
            self._service_name = VpcEndpointService(
                self,
                "shared",
                acceptance_required=False,
                allowed_principals=list(kit.settings.network.share_with),
                network_load_balancer_arns=[self._edge.lb.arn],
                tags={"Name": kit.name()},
            )
            self._output(
                "privatelink_service",
                self._service_name.service_name,
                "What other accounts name in their VPC endpoint",
            )

    def _outputs(self) -> None:
        kit = self._kit
        cache_port, scheduler_port = client_ports(kit)
        cache = endpoint_of(kit, self._edge.lb.dns_name, cache_port)
        self._output("endpoint", cache, "Address for --remote_cache and --remote_executor")
        self._output(
            "scheduler_endpoint",
            endpoint_of(kit, self._edge.lb.dns_name, scheduler_port),
            "Address of the scheduler alone",
        )
        self._output("bazelrc", bazelrc(kit, cache), "Lines for .bazelrc")
        self._output(
            "dashboard",
            f"https://{kit.region}.console.aws.amazon.com/cloudwatch/home?region={kit.region}"
            f"#dashboards/dashboard/{dashboard.name_of(kit)}",
            "The region on one page",
        )
        self._output("load_balancer", self._edge.lb.dns_name, "What the clients' name leads to")

    def _output(self, name: str, value: str, description: str) -> None:
        output = TerraformOutput(self, name, value=value, description=description)
        output.override_logical_id(name)
